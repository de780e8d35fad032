"""Time artifacts, in fresh processes that take turns."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

from edgeprune.support.errors import MachineError, UsageError
from runtime_tests.child import start
from runtime_tests.counters import joules
from runtime_tests.paired import CONFIDENCE, speed_ratio
from runtime_tests.programs import Program, Running
from runtime_tests.run import Stage
from runtime_tests.runners import entry_of
from runtime_tests.timing import Contender, blocks

ITS_OWN = "-"  # the device of a program, which it chooses


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
    """An artifact on a device with a number of threads.

    Attributes:
        name: of the artifact, or a program's.
        path: of the artifact.
        device: ``CPU``, or a GPU by its name.
        threads: of the runtime.
        program: that runs it; None: the package's own runtime for such artifacts.
    """

    name: str
    path: Path
    device: str
    threads: int
    program: Program | None = None


def bench(
    artifacts: dict[str, Path],
    lengths: Lengths,
    progress: Callable[[str, int], AbstractContextManager[Stage]],
    on_gpus: bool = False,
    programs: Sequence[Program] = (),
) -> dict[str, Any]:
    """Time artifacts in turns.

    Args:
        artifacts: files or transformers folders, by their names in the result.
        lengths: lengths to time.
        progress: begins a progress stage of so many steps.
        on_gpus: also on every GPU that can run an artifact here.
        programs: that run every GGUF file too; their device is a dash.

    Returns:
        A JSON-like record: ``lengths``; ``repeated``, the number of runs made again since other
        machines took the processor; ``not_run``, artifact, device and why, of GPUs that were
        wanted; and ``rows``, one for each artifact, device, number of threads and test, with
        ``runtime``, ``bytes`` and raw ``samples``, of each process its rounds, in tokens/s
        (``pp<n>``, ``tg<n>``; ``tg<n> b<m>`` for m sequences side by side, whose tokens all
        count; ``pp<n>`` of a server has its time to the first token), seconds (``load``,
        ``load_cold``, ``first_token``), bytes (``peak_memory``) or
        joules a token (``energy<n>``, where the processor counts them); of speeds also ``ratio``
        to the first artifact's, with its 95 % interval.

    Raises:
        MachineError: the runtime rejected an artifact or crashed on it.
    """
    settings = [
        Setting(name, path, "CPU", threads)
        for (name, path), threads in product(artifacts.items(), lengths.threads)
    ] + list(_in_programs(artifacts, lengths, programs))
    tests: dict[Setting, dict[str, list[list[float]]]] = {}
    about = {}
    for one in settings:
        is_cold = _drop_from_cache(one.path)
        with _started(one) as child:
            about[one] = child.call("info")
        seconds = about[one].get("load_seconds")
        tests[one] = {"load_cold": [[seconds]]} if is_cold and seconds else {}
    on_gpu, not_run = _on_gpus(artifacts, lengths) if on_gpus else ({}, [])
    about |= on_gpu
    contenders = {one: contender(one, lengths) for one in about}
    runs = sum(len(one.runs) for one in contenders.values())
    with progress("time", lengths.processes * lengths.rounds * runs) as stage:
        *_, found = islice(blocks(contenders, lengths.rounds, stage.advance), lengths.processes)
    rows = [
        {"artifact": one.name, "device": one.device, "threads": one.threads, "test": test,
         "unit": _unit(test), "runtime": info["version"], "bytes": info.get("file_bytes"),
         "samples": samples}
        for one, info in about.items()
        for test, samples in (tests.get(one, {}) | found.samples[one]).items()
    ]  # fmt: skip
    _compare(rows)
    return {
        "lengths": asdict(lengths), "repeated": found.repeated, "rows": rows, "not_run": not_run
    }  # fmt: skip


def _in_programs(
    artifacts: dict[str, Path], lengths: Lengths, programs: Sequence[Program]
) -> Iterator[Setting]:
    files = {name: path for name, path in artifacts.items() if path.suffix == ".gguf"}
    if programs and not files:
        raise UsageError("Programs run GGUF files, and there is none.", "Name one too.")
    if programs and lengths.batch != (1,):
        raise UsageError("Programs are timed with one request at a time.", "Leave out --batch.")
    for program in programs:
        if not program.loads:
            path = next(iter(files.values()))
            yield Setting(program.name, path, ITS_OWN, max(lengths.threads), program)
            continue
        for (name, path), threads in product(files.items(), lengths.threads):
            yield Setting(f"{name} in {program.name}", path, ITS_OWN, threads, program)


def _compare(rows: list[dict[str, Any]]) -> None:
    """Add the ratio of each speed to the first artifact's on the same device and threads.

    Programs choose their device, and are compared with the processor.
    """
    first: dict[tuple[str, int, str], dict[str, Any]] = {}
    for row in rows:
        device = "CPU" if row["device"] == ITS_OWN else row["device"]
        before = first.setdefault((device, row["threads"], row["test"]), row)
        compared = row["unit"] == "tokens/s" and len(row["samples"]) > 1 and before is not row
        pair = (before["samples"], row["samples"])
        row["ratio"] = asdict(speed_ratio(*pair, CONFIDENCE)) if compared else None


def _started(one: Setting) -> AbstractContextManager[Running]:
    if one.program:
        return one.program.start(one.path, one.threads)
    return start(one.path, one.threads, one.device)


def contender(one: Setting, lengths: Lengths) -> Contender:
    """Make what is timed of an artifact: all lengths in each run."""

    def at_end(child: Running) -> dict[str, float]:
        found = {"load": child.call("info").get("load_seconds")}
        if one.device in ("CPU", ITS_OWN):  # a GPU's memory is not what the process holds
            found["peak_memory"] = child.call("peak_memory")
        return {name: value for name, value in found.items() if value is not None}

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


def _warm_up(child: Running, lengths: Lengths) -> float:
    return sum(
        child.call("decode_seconds", prompt_tokens=lengths.depth, tokens=8, batch=batch)
        for batch in lengths.batch
    )


def _runs(device: str, lengths: Lengths) -> Iterator[Callable[[Running], dict[str, float]]]:
    """Make the runs of a round."""
    for batch, tokens in product(lengths.batch, lengths.prefill):
        yield partial(_prefill, tokens=tokens, batch=batch)
    if lengths.first_token:
        yield partial(_first_token, tokens=max(lengths.prefill))
    for batch, tokens in product(lengths.batch, lengths.decode):
        yield partial(_decode, depth=lengths.depth, tokens=tokens, batch=batch, device=device)


def _prefill(child: Running, tokens: int, batch: int) -> dict[str, float]:
    seconds = child.call("prefill_seconds", tokens=tokens, batch=batch)
    return {_name("pp", tokens, batch): batch * tokens / seconds}


def _first_token(child: Running, tokens: int) -> dict[str, float]:
    seconds = child.call("first_token_seconds", prompt_tokens=tokens)
    return {"first_token": seconds} if seconds else {}  # llama-bench has none


def _decode(child: Running, depth: int, tokens: int, batch: int, device: str) -> dict[str, float]:
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
