"""One build, measured for comparison: what it answered, how fast it was beside its dense twin."""

from pathlib import Path
from typing import Any

from edgeprune.support import environment
from edgeprune.support.errors import InputError
from edgeprune.support.files import read_json, sha256_file, sha256_json
from edgeprune.support.progress import Progress

SCHEMA = 2
_BASELINE = "baseline"
_DEPTH = 64  # a short prompt before what is decoded: it is read again in every round
ROUNDS = 15  # 15 and 15 samples show a change of one standard deviation at p < 0.002


def read_build(folder: Path) -> dict[str, Any]:
    """A build's manifest.

    Raises:
        InputError: the folder is no finished build, or one of an older edgeprune.
    """
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or "results" not in manifest:
        raise InputError(
            f"{folder} is no finished build: it holds no manifest.json.",
            "edgeprune build makes one; give its folder.",
        )
    if any("answers" not in found for found in manifest["results"]["artifacts"].values()):
        raise InputError(
            f"{folder} was measured by an older edgeprune, which kept no single answers.",
            "Run the same edgeprune build again: only its measurements are repeated.",
        )
    return manifest


def measure(
    folder: Path,
    rounds: int,
    threads: int | None,
    progress: Progress,
    baseline: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Answers and sizes of a build as it measured them, and its speed as it is now.

    Args:
        folder: of the build; its artifact and the dense twin in ``work`` take turns.
        rounds: how often both are timed.
        threads: of the runtime; None: as the build was measured.
        progress: told of every stage.
        baseline: an earlier measurement. If its artifact is still where it was, it takes turns with
            the others: a shared machine is a third faster in one minute than in the next, and
            nothing but the same rounds cancels that.

    Returns:
        A JSON-like record; `edgeprune.regression.compare` compares two of them.

    Raises:
        InputError: as `read_build`, or an artifact is gone.
        MachineError: the runtime refuses an artifact.
    """
    from runtime_tests.bench import Lengths, bench

    manifest = read_build(folder)
    recipe, results = manifest["recipe"], manifest["results"]
    files = {"dense": manifest["dense_artifact"], "pruned": manifest["artifact"]}
    artifacts = {name: folder / files[name]["file"] for name in results["artifacts"]}
    for path in artifacts.values():
        if not path.is_file():
            raise InputError(f"{path} is gone.", "Run the same edgeprune build again.")
    name = "pruned" if "pruned" in artifacts else "dense"
    if baseline and (before := _still_there(baseline, name)):
        artifacts[_BASELINE] = before
    used = threads or results["threads"]
    lengths = Lengths(
        prefill=(recipe["prefill_tokens"],),
        decode=(recipe["decode_tokens"],),
        depth=_DEPTH,
        threads=(used,),
        rounds=rounds,
        first_token=False,
    )
    found = bench(artifacts, lengths, progress.stage)
    tests = {(row["artifact"], row["test"]): row["samples"] for row in found["rows"]}
    kinds = {f"pp{lengths.prefill[0]}": "prefill", f"tg{lengths.decode[0]}": "decode"}
    return {
        "schema": SCHEMA,
        "build": folder.name,
        "folder": str(folder.resolve()),
        "task": manifest["data"]["task"]["name"],
        "general": manifest["data"]["general"]["sha256"],
        "metric": results["metric"],
        "threads": used,
        "lengths": [recipe["prefill_tokens"], recipe["decode_tokens"]],
        "machine": fingerprint(),
        "surroundings": environment.surroundings(),
        "baseline_now": {
            kind: tests[_BASELINE, test] for test, kind in kinds.items() if _BASELINE in artifacts
        },
        "artifacts": {
            name: {
                "file": files[name]["file"],
                "files": files[name]["files"],
                "sha256": files[name]["sha256"],
                "file_bytes": record["file_bytes"],
                "peak_memory_bytes": tests[name, "peak_memory"][0],
                "answers": record["answers"],
                "general_nats": record["general_perplexity"]["window_nats"],
                "general_tokens": record["general_perplexity"]["tokens"],
                "first_token": [
                    lengths.prefill[0] / speed for speed in tests[name, f"pp{lengths.prefill[0]}"]
                ],
                **{kind: tests[name, test] for test, kind in kinds.items()},
            }
            for name, record in results["artifacts"].items()
        },
    }


def _still_there(baseline: dict[str, Any], name: str) -> Path | None:
    """A baseline's artifact of that name, if all its files are unchanged."""
    if not (facts := baseline["artifacts"].get(name)):
        return None
    folder = Path(baseline["folder"])
    for file, digest in facts["files"].items():
        if not (folder / file).is_file() or sha256_file(folder / file) != digest:
            return None
    return folder / facts["file"]


def fingerprint() -> str:
    """The machine and what runs on it: timings with another one are compared as ratios only."""
    found = environment.describe()
    return sha256_json([found["processor"], found["cores"], found["memory_bytes"] >> 30])[:16]
