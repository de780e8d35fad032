"""One build, measured for comparison: its answers, and its speed beside the dense baseline."""

from pathlib import Path
from typing import Any

from pydantic import Field

from edgeprune.manifest import Manifest, read
from edgeprune.manifest.base import Facts
from edgeprune.manifest.manifest import Machine
from edgeprune.manifest.results import Answers
from edgeprune.support import environment
from edgeprune.support.errors import InputError
from edgeprune.support.files import sha256_file, sha256_json
from edgeprune.support.progress import Progress

# Raised whenever a field of `Measurement` changes its name or its meaning.
SCHEMA = 3
_BASELINE = "baseline"
_DEPTH = 64  # a short prompt before what is decoded: it is read again in every round
ROUNDS = 15  # 15 and 15 samples show a change of one standard deviation at p < 0.002


class Timed(Facts):
    """Tokens per second, round by round."""

    prefill: list[float]
    decode: list[float]

    def of(self, kind: str) -> list[float]:
        """Samples of ``prefill`` or ``decode``."""
        return self.prefill if kind == "prefill" else self.decode


class MeasuredArtifact(Timed):
    """One artifact: its files and size, its answers, how fast it is.

    Attributes:
        file: relative to the build.
        files: SHA-256 by file, relative to the build.
        sha256: of all of them.
        general_nats: of the general text, window by window.
        general_tokens: in all windows.
        first_token: seconds to read the prompt, round by round.
    """

    file: str
    files: dict[str, str]
    sha256: str
    file_bytes: int
    peak_memory_bytes: int
    answers: Answers
    general_nats: list[float]
    general_tokens: int
    first_token: list[float]


class Environment(Machine):
    """The machine, and what else ran on it."""

    load: float
    governor: str


class TimedLengths(Facts):
    """Tokens of the prompt and of the answer that were timed."""

    prefill: int
    decode: int


class Measurement(Facts):
    """A build as `edgeprune.regression.compare` compares it; a baseline is one in a file.

    Attributes:
        schema_number: ``schema`` in the file.
        build: name of its folder.
        folder: where it stands.
        general: hash of the general text.
        machine: fingerprint of where it was timed.
        baseline_now: speeds of the baseline's artifact in the same rounds; None if it was not there
            to be timed.
        artifacts: ``dense``, and ``pruned`` if there is one.
    """

    schema_number: int = Field(SCHEMA, alias="schema")
    build: str
    folder: str
    task: str
    general: str
    metric: str
    threads: int
    lengths: TimedLengths
    machine: str
    environment: Environment
    baseline_now: Timed | None = None
    artifacts: dict[str, MeasuredArtifact]

    @property
    def own(self) -> str:
        """Key of the build's own artifact: ``pruned``, or ``dense`` if nothing was changed."""
        return "pruned" if "pruned" in self.artifacts else "dense"


def measure(
    folder: Path,
    rounds: int,
    threads: int | None,
    progress: Progress,
    baseline: Measurement | None = None,
) -> Measurement:
    """Answers and sizes of a build as it measured them, and its speed as it is now.

    Args:
        folder: of the build; its artifact and the dense baseline in ``work`` take turns.
        rounds: how often both are timed.
        threads: of the runtime; None: as the build was measured.
        progress: told of every stage.
        baseline: an earlier measurement. If its artifact is still where it was, it takes turns with
            the others: a shared machine is a third faster in one minute than in the next, and
            nothing but the same rounds cancels that.

    Raises:
        InputError: as `edgeprune.manifest.read`, or an artifact is gone.
        MachineError: the runtime refuses an artifact.
    """
    from runtime_tests.bench import Lengths, bench

    manifest = read(folder)
    asked, used = manifest.recipe.measurement, threads or manifest.results.threads
    paths = _artifacts(folder, manifest)
    if baseline and (before := _still_there(baseline, manifest.results.own)):
        paths[_BASELINE] = before
    lengths = Lengths(
        (asked.prefill_tokens,), (asked.decode_tokens,), _DEPTH,
        threads=(used,), rounds=rounds, first_token=False,
    )  # fmt: skip
    found = bench(paths, lengths, progress.stage)
    tests = {(row["artifact"], row["test"]): row["samples"] for row in found["rows"]}
    speeds = {
        name: Timed(
            prefill=tests[name, f"pp{asked.prefill_tokens}"],
            decode=tests[name, f"tg{asked.decode_tokens}"],
        )
        for name in paths
    }
    return Measurement(
        build=folder.name,
        folder=str(folder.resolve()),
        task=manifest.data.task.name,
        general=manifest.data.general.sha256,
        metric=manifest.results.metric,
        threads=used,
        lengths=TimedLengths(prefill=asked.prefill_tokens, decode=asked.decode_tokens),
        machine=fingerprint(),
        environment=Environment(**environment.conditions()),
        baseline_now=speeds.get(_BASELINE),
        artifacts={
            name: _measured(manifest, name, speeds[name], tests[name, "peak_memory"][0])
            for name in manifest.results.artifacts
        },
    )


def _artifacts(folder: Path, manifest: Manifest) -> dict[str, Path]:
    files = {"dense": manifest.dense_artifact.file, "pruned": manifest.artifact.file}
    paths = {name: folder / files[name] for name in manifest.results.artifacts}
    for path in paths.values():
        if not path.exists():
            raise InputError(f"{path} is missing.", "Run the same edgeprune build again.")
    return paths


def _measured(manifest: Manifest, name: str, speed: Timed, peak_memory: Any) -> MeasuredArtifact:
    record = manifest.results.artifacts[name]
    facts = manifest.artifact if name == "pruned" else manifest.dense_artifact
    return MeasuredArtifact(
        file=facts.file,
        files=facts.files,
        sha256=facts.sha256,
        file_bytes=record.file_bytes,
        peak_memory_bytes=peak_memory,
        answers=record.answers,
        general_nats=record.general_perplexity.window_nats,
        general_tokens=record.general_perplexity.tokens,
        first_token=[manifest.recipe.measurement.prefill_tokens / one for one in speed.prefill],
        prefill=speed.prefill,
        decode=speed.decode,
    )


def _still_there(baseline: Measurement, name: str) -> Path | None:
    """A baseline's artifact of that name, if all its files are unchanged."""
    if not (facts := baseline.artifacts.get(name)):
        return None
    folder = Path(baseline.folder)
    for file, digest in facts.files.items():
        if not (folder / file).is_file() or sha256_file(folder / file) != digest:
            return None
    return folder / facts.file


def fingerprint() -> str:
    """The machine and what runs on it: timings with another one are compared as ratios only."""
    found = environment.describe()
    return sha256_json([found["processor"], found["cores"], found["memory_bytes"] >> 30])[:16]
