"""Time artifacts, in fresh processes that take turns."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

from edgeprune.support.errors import MachineError
from runtime_tests.accuracy import CONFIDENCE
from runtime_tests.child import Child, start
from runtime_tests.counters import joules
from runtime_tests.paired import speed_ratio
from runtime_tests.run import Stage
from runtime_tests.runners import entry_of
from runtime_tests.timing import Contender, blocks


@dataclass(frozen=True)
class Lengths:
    """What is timed.

    Attributes:
        prefill: prompt lengths, in tokens.
        decode: numbers of tokens decoded one by one, after a prompt of ``depth`` tokens.
        depth: prompt length before decoding.
        batch: batch sizes for reading and decoding.
        threads: numbers of threads; each artifact runs with each number.
        processes: number of fresh processes of each.
        rounds: number of timing rounds in each process.
        first_token: whether to measure the time to the first token as well.
    """

    prefill: tuple[int, ...] = (256,)
    decode: tuple[int, ...] = (64,)
    depth: int = 64
    batch: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    processes: int = 5
    rounds: int = 2
    first_token: bool = True


@dataclass(frozen=True)
class Setting:
    """An artifact on a device with a number of threads."""

    name: str
    path: Path
    device: str
    threads: int


def bench(
    artifacts: dict[str, Path],
    lengths: Lengths,
    progress: Callable[[str, int], AbstractContextManager[Stage]],
    on_gpus: bool = False,
) -> dict[str, Any]:
    """Time artifacts in turns.

    Args:
        artifacts: files or transformers folders, by their names in the result.
        lengths: lengths to time.
        progress: begins a progress stage of so many steps.
        on_gpus: also on every GPU that can run an artifact here.

    Returns:
        A JSON-like record: ``lengths``; ``repeated``, the number of runs made again since other
        machines took the processor; ``not_run``, artifact, device and why, of GPUs that were
        wanted; and ``rows``, one for each artifact, device, number of threads and test, with
        ``runtime``, ``bytes`` and raw ``samples``, of each process its rounds, in tokens/s
        (``pp<n>``, ``tg<n>``; ``tg<n> b<m>`` for m sequences side by side, whose tokens all
        count), seconds (``load``, ``load_cold``, ``first_token``), bytes (``peak_memory``) or
        joules a token (``energy<n>``, where the processor counts them); of speeds also ``ratio``
        to the first artifact's, with its 95 % interval.

    Raises:
        MachineError: the runtime rejected an artifact or crashed on it.
    """
    settings = [
        Setting(name, path, "CPU", threads)
        for (name, path), threads in product(artifacts.items(), lengths.threads)
    ]
    tests: dict[Setting, dict[str, list[list[float]]]] = {}
    about = {}
    for one in settings:
        is_cold = _drop_from_cache(one.path)
        with _started(one) as child:
            about[one] = child.call("info")
        tests[one] = {"load_cold": [[about[one]["load_seconds"]]]} if is_cold else {}
    on_gpu, not_run = _on_gpus(artifacts, lengths) if on_gpus else ({}, [])
    about |= on_gpu
    contenders = {one: contender(one, lengths) for one in about}
    runs = sum(len(one.runs) for one in contenders.values())
    with progress("time", lengths.processes * lengths.rounds * runs) as stage:
        *_, found = islice(blocks(contenders, lengths.rounds, stage.advance), lengths.processes)
    rows = [
        {"artifact": one.name, "device": one.device, "threads": one.threads, "test": test,
         "unit": _unit(test), "runtime": info["version"], "bytes": info["file_bytes"],
         "samples": samples}
        for one, info in about.items()
        for test, samples in (tests.get(one, {}) | found.samples[one]).items()
    ]  # fmt: skip
    _compare(rows)
    return {
        "lengths": asdict(lengths), "repeated": found.repeated, "rows": rows, "not_run": not_run
    }  # fmt: skip


def _compare(rows: list[dict[str, Any]]) -> None:
    """Add the ratio of each speed to that of the first artifact on the same device and threads."""
    first: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        before = first.setdefault((row["device"], row["threads"], row["test"]), row)
        compared = row["unit"] == "tokens/s" and len(row["samples"]) > 1 and before is not row
        pair = (before["samples"], row["samples"])
        row["ratio"] = asdict(speed_ratio(*pair, CONFIDENCE)) if compared else None


def _started(one: Setting) -> AbstractContextManager[Child]:
    return start(one.path, one.threads, one.device)


def contender(one: Setting, lengths: Lengths) -> Contender:
    """Make what is timed of an artifact: all lengths in each run."""

    def at_end(child: Child) -> dict[str, float]:
        seconds = {"load": child.call("info")["load_seconds"]}
        if one.device != "CPU":  # a GPU's memory is not what the process holds
            return seconds
        return seconds | {"peak_memory": child.call("peak_memory")}

    runs, warm_up = list(_runs(one.device, lengths)), partial(_warm_up, lengths=lengths)
    return Contender(partial(_started, one), runs, warm_up, at_end)


def _on_gpus(
    artifacts: dict[str, Path], lengths: Lengths
) -> tuple[dict[Setting, dict[str, Any]], list[dict[str, str]]]:
    """Find the GPUs that can run each artifact here, and reasons for those that cannot."""
    found, not_run = {}, []
    for name, path in artifacts.items():
        for gpu in entry_of(path).gpus:
            one = Setting(name, path, gpu.name, 1)
            try:
                if reason := gpu.why_not():
                    raise MachineError(reason)
                with _started(one) as child:
                    _warm_up(child, lengths)
                    found[one] = child.call("info")
            except MachineError as error:
                not_run.append({"artifact": name, "device": gpu.name, "why": str(error)})
    return found, not_run


def _warm_up(child: Child, lengths: Lengths) -> float:
    return sum(
        child.call("decode_seconds", prompt_tokens=lengths.depth, tokens=8, batch=batch)
        for batch in lengths.batch
    )


def _runs(device: str, lengths: Lengths) -> Iterator[Callable[[Child], dict[str, float]]]:
    """Make the runs of a round."""
    for batch, tokens in product(lengths.batch, lengths.prefill):
        yield partial(_prefill, tokens=tokens, batch=batch)
    if lengths.first_token:
        yield partial(_first_token, tokens=max(lengths.prefill))
    for batch, tokens in product(lengths.batch, lengths.decode):
        yield partial(_decode, depth=lengths.depth, tokens=tokens, batch=batch, device=device)


def _prefill(child: Child, tokens: int, batch: int) -> dict[str, float]:
    seconds = child.call("prefill_seconds", tokens=tokens, batch=batch)
    return {_name("pp", tokens, batch): batch * tokens / seconds}


def _first_token(child: Child, tokens: int) -> dict[str, float]:
    start = time.perf_counter()
    child.call("decode_seconds", prompt_tokens=tokens, tokens=1)
    return {"first_token": time.perf_counter() - start}


def _decode(child: Child, depth: int, tokens: int, batch: int, device: str) -> dict[str, float]:
    with _energy(device) as used:
        seconds = child.call("decode_seconds", prompt_tokens=depth, tokens=tokens, batch=batch)
    found = {_name("tg", tokens, batch): batch * tokens / seconds}
    return found | ({_name("energy", tokens, batch): used[0] / (batch * tokens)} if used else {})


def _name(test: str, tokens: int, batch: int) -> str:
    return f"{test}{tokens}" if batch == 1 else f"{test}{tokens} b{batch}"


def _unit(test: str) -> str:
    if test.startswith(("pp", "tg")):
        return "tokens/s"
    if test.startswith("energy"):
        return "J/token"
    return "B" if test == "peak_memory" else "s"


@contextmanager
def _energy(device: str) -> Iterator[list[float]]:
    """Record the energy used, including the prompt, if the device can report it."""
    found: list[float] = []
    before = joules(device)
    yield found
    after = joules(device)
    if before is not None and after is not None and after >= before:
        found.append(after - before)


def _drop_from_cache(path: Path) -> bool:
    """Drop an artifact from the page cache; returns whether the system can."""
    can = hasattr(os, "posix_fadvise")
    files = list(path.iterdir()) if path.is_dir() else sorted(path.parent.glob(f"{path.name}*"))
    for file in files if can else ():
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return can
