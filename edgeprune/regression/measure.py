"""Measure a build for comparison: once, or beside a baseline for as long as it takes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import psutil

from edgeprune.manifest import Manifest, read
from edgeprune.regression.measurement import (
    Environment,
    MeasuredArtifact,
    MeasuredProgram,
    Measurement,
    Timed,
    TimedLengths,
    fingerprint,
)
from edgeprune.regression.programs import Programs
from edgeprune.support import environment
from edgeprune.support.errors import InputError
from edgeprune.support.files import sha256_file
from edgeprune.support.progress import Progress, Stage
from runtime_tests.bench import ITS_OWN, Lengths, Setting, contender
from runtime_tests.programs import Program
from runtime_tests.timing import Contender, Timings, blocks

PROCESSES = 8  # of each artifact of a baseline
_ROUNDS = 4  # in each process
_DEPTH = 64  # a short prompt before what is decoded: it is read again in every round
_FIRST = 4  # processes of each before the first look, and all that the dense model gets
_LOOKS = (0.4, 0.7)  # shares of the time after which a look is worth its share of the error
_BESIDE = ("baseline", "baseline, again")
_PROGRAM, _PROGRAM_BEFORE = "program", "baseline's program"
_NONE = Programs()


@dataclass(frozen=True)
class Look:
    """A look at a measurement that goes on.

    Attributes:
        found: everything measured so far.
        before: share of the time at the look before; 0 if there was none.
        now: share of the time; 1 at the last look.
    """

    found: Measurement
    before: float
    now: float


@dataclass(frozen=True)
class _Build:
    folder: Path
    manifest: Manifest
    threads: int
    programs: Programs

    def lengths(self) -> Lengths:
        asked = self.manifest.recipe.measurement
        return Lengths(
            (asked.prefill_tokens,), (asked.decode_tokens,), _DEPTH, threads=(self.threads,),
            first_token=False,
        )  # fmt: skip

    def contenders(self, beside: Path | None = None, threads: int = 0) -> dict[str, Contender]:
        """The build's artifacts, and a file that runs twice beside them, with its own threads."""
        paths = _artifacts(self.folder, self.manifest)
        own = paths[self.manifest.results.own]
        settings = [Setting(name, path, "CPU", self.threads) for name, path in paths.items()]
        if beside:
            settings += [Setting(name, beside, "CPU", threads) for name in _BESIDE]
        if one := self.programs.own:
            settings.append(Setting(_PROGRAM, own, ITS_OWN, self.threads, one))
        if (before := self.programs.before) and beside:
            settings.append(Setting(_PROGRAM_BEFORE, beside, ITS_OWN, threads, before))
        return {one.name: contender(one, self.lengths()) for one in settings}


def measure(
    folder: Path,
    progress: Progress,
    threads: int | None = None,
    program: Program | None = None,
) -> Measurement:
    """Take answers and sizes of a build as it measured them, and its speed as it is now.

    Args:
        folder: of the build; its artifact and the dense baseline in ``work`` take turns.
        progress: told of every stage.
        threads: of the runtime; None: as the build was measured.
        program: that runs the artifact as well.

    Raises:
        InputError: as `edgeprune.manifest.read`, or an artifact is gone.
        MachineError: the runtime, or the program, refuses an artifact.
    """
    manifest = read(folder)
    build = _Build(folder, manifest, threads or manifest.results.threads, Programs(program))
    contenders, start = build.contenders(), time.perf_counter()
    runs = sum(len(one.runs) for one in contenders.values())
    with progress.stage("time", PROCESSES * _ROUNDS * runs) as stage:
        *_, timings = islice(blocks(contenders, _ROUNDS, stage.advance), PROCESSES)
    return _measurement(build, timings, time.perf_counter() - start)


def looks(
    folder: Path,
    progress: Progress,
    baseline: Measurement,
    seconds: float,
    threads: int | None = None,
    programs: Programs = _NONE,
) -> Iterator[Look]:
    """Measure a build beside a baseline's artifact, for as long as the caller goes on looking.

    A shared machine is a third faster in one minute than in the next, and nothing but turns cancels
    that. The baseline's artifact runs twice, so that it is known how far two processes of the same
    file differ here and now. If it is gone, there is one look.

    Args:
        folder: of the build.
        progress: told of every stage.
        baseline: an earlier measurement.
        seconds: time for all looks; exceeded only if the first processes of each take longer.
        threads: of the runtime; None: as in the baseline.
        programs: that are timed as well.

    Raises:
        InputError: as `edgeprune.manifest.read`, or an artifact is gone.
        MachineError: the runtime, or a program, refuses an artifact.
    """
    manifest = read(folder)
    build = _Build(folder, manifest, threads or baseline.threads, programs)
    before = _still_there(baseline, manifest.results.own)
    if not before:
        yield Look(measure(folder, progress, build.threads, programs.own), 0.0, 1.0)
        return
    everyone = build.contenders(before, baseline.threads)
    without_dense = {
        name: one
        for name, one in everyone.items()
        if name != "dense" or manifest.results.own == "dense"
    }
    start = time.perf_counter()
    with progress.stage("time", round(seconds)) as stage:
        tick = _clock(stage, start)
        *_, timings = islice(blocks(everyone, _ROUNDS, tick), _FIRST)
        more = blocks(without_dense, _ROUNDS, tick, timings)
        began = start + (time.perf_counter() - start) * (_FIRST - 1) / _FIRST
        earlier, due = 0.0, _LOOKS[0]
        for so_far in chain([timings], more):
            now = time.perf_counter()
            spent, block, began = now - start, now - began, now
            last = spent + block > seconds  # there is no time for another block like this one
            share = 1.0 if last else spent / seconds
            if share >= due:
                yield Look(_measurement(build, so_far, spent), earlier, share)
                earlier, due = share, next((one for one in _LOOKS if one > share), 1.0)
            if last:
                return


def _clock(stage: Stage, start: float) -> Callable[[], None]:
    """Advance a stage by the seconds that have passed."""
    shown = 0

    def advance() -> None:
        nonlocal shown
        passed = int(time.perf_counter() - start)
        stage.advance(passed - shown)
        shown = passed

    return advance


def _measurement(build: _Build, timings: Timings, seconds: float) -> Measurement:
    manifest, lengths = build.manifest, build.lengths()
    prefill, decode = lengths.prefill[0], lengths.decode[0]
    speeds = {
        name: Timed(prefill=found[f"pp{prefill}"], decode=found[f"tg{decode}"])
        for name, found in timings.samples.items()
    }
    memory = {
        name: int(max(found["peak_memory"])[0])
        for name, found in timings.samples.items()
        if "peak_memory" in found
    }
    return Measurement(
        build=build.folder.name,
        folder=str(build.folder.resolve()),
        task=manifest.data.task.name,
        general=manifest.data.general.sha256,
        metric=manifest.results.metric,
        threads=build.threads,
        lengths=TimedLengths(prefill=prefill, decode=decode),
        machine=fingerprint(),
        environment=Environment(**environment.conditions()),
        seconds=seconds,
        repeated=timings.repeated,
        stolen=timings.stolen / (seconds * (psutil.cpu_count() or 1)),
        beside=tuple(speeds[name] for name in _BESIDE if name in speeds),
        artifacts={
            name: _measured(manifest, name, speeds[name], memory[name])
            for name in _checked(manifest)
        },
        program=_program(build, speeds[_PROGRAM], memory.get(_PROGRAM))
        if _PROGRAM in speeds
        else None,
        program_before=speeds.get(_PROGRAM_BEFORE),
    )


def _program(build: _Build, speed: Timed, peak_memory: int | None) -> MeasuredProgram:
    one = build.programs.own
    assert one is not None  # it has been timed
    return MeasuredProgram(
        name=one.name, said=one.said, version=one.version(), peak_memory_bytes=peak_memory,
        prefill=speed.prefill, decode=speed.decode,
    )  # fmt: skip


def _artifacts(folder: Path, manifest: Manifest) -> dict[str, Path]:
    files = {"dense": manifest.dense_artifact.file, "pruned": manifest.artifact.file}
    paths = {name: folder / files[name] for name in _checked(manifest)}
    for path in paths.values():
        if not path.exists():
            raise InputError(f"{path} is missing.", "Run the same edgeprune build again.")
    return paths


def _checked(manifest: Manifest) -> list[str]:
    """The build's artifact and its dense baseline; rivals in other types never change."""
    return [name for name in ("dense", "pruned") if name in manifest.results.artifacts]


def _measured(manifest: Manifest, name: str, speed: Timed, peak_memory: int) -> MeasuredArtifact:
    record = manifest.results.artifacts[name]
    chat = record.agreement.get("chat")
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
        chat_nats=chat.row_nats if chat else [],
        chat_places=chat.row_places if chat else [],
        prefill=speed.prefill,
        decode=speed.decode,
    )


def _still_there(baseline: Measurement, name: str) -> Path | None:
    """Find a baseline's artifact of that name, if all its files are unchanged."""
    if not (facts := baseline.artifacts.get(name)):
        return None
    folder = Path(baseline.folder)
    for file, digest in facts.files.items():
        if not (folder / file).is_file() or sha256_file(folder / file) != digest:
            return None
    return folder / facts.file
