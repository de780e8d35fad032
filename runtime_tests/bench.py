"""Time artifacts, each in a child process, interleaved within every round."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from edgeprune.support.errors import MachineError
from runtime_tests.child import Child, start
from runtime_tests.counters import joules
from runtime_tests.run import Stage
from runtime_tests.runners import entry_of


@dataclass(frozen=True)
class Lengths:
    """What is timed.

    Attributes:
        prefill: prompt lengths, in tokens.
        decode: numbers of tokens decoded one by one, after a prompt of ``depth`` tokens.
        depth: prompt length before decoding.
        batch: batch sizes for reading and decoding.
        threads: numbers of threads; each artifact runs with each number.
        rounds: number of timing rounds.
        first_token: whether to measure the time to the first token as well.
    """

    prefill: tuple[int, ...] = (256,)
    decode: tuple[int, ...] = (64,)
    depth: int = 64
    batch: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    rounds: int = 10
    first_token: bool = True


@dataclass(frozen=True)
class Contender:
    """An artifact on a device with a number of threads, in its child process."""

    name: str
    device: str
    threads: int
    child: Child


def bench(
    artifacts: dict[str, Path],
    lengths: Lengths,
    progress: Callable[[str, int], AbstractContextManager[Stage]],
    on_gpus: bool = False,
) -> dict[str, Any]:
    """Time artifacts in interleaved rounds.

    Args:
        artifacts: files or transformers folders, by their names in the result.
        lengths: lengths to time.
        progress: begins a progress stage of so many steps.
        on_gpus: also on every GPU that can run an artifact here.

    Returns:
        A JSON-like record: ``lengths``; ``not_run``, artifact, device and why, of GPUs that were
        wanted; and ``rows``, one for each artifact, device, number of threads and test, with raw
        ``samples`` in tokens/s (``pp<n>``, ``tg<n>``; ``tg<n> b<m>`` for m sequences side by side,
        whose tokens all count), seconds (``load``, ``load_cold``, ``first_token``), bytes
        (``peak_memory``) or joules a token (``energy<n>``, where the processor counts them).

    Raises:
        MachineError: the runtime rejected an artifact or crashed on it.
    """
    rows: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    contenders: list[Contender] = []
    with ExitStack() as stack:
        for (name, path), threads in product(artifacts.items(), lengths.threads):
            cold = _cold_load(path, threads)
            one = Contender(name, "CPU", threads, stack.enter_context(start(path, threads)))
            contenders.append(one)
            info = one.child.call("info")
            rows.append(_row(one, "load", "s", [info["load_seconds"]], info))
            if cold is not None:
                rows.append(_row(one, "load_cold", "s", [cold], info))
        if on_gpus:
            found_gpus, not_run = _on_gpus(artifacts, lengths, stack)
            contenders += found_gpus
        samples: dict[tuple[int, str, str], list[float]] = {}
        with progress("time", lengths.rounds * len(contenders)) as stage:
            for one in contenders:
                _warm_up(one.child, lengths)
            for _ in range(lengths.rounds):
                for index, one in enumerate(contenders):
                    for test, unit, value in _measured(one, lengths):
                        samples.setdefault((index, test, unit), []).append(value)
                    stage.advance()
        for (index, test, unit), found in samples.items():
            rows.append(_row(contenders[index], test, unit, found))
        for one in contenders:
            if one.device == "CPU":  # a GPU's memory is not what the process holds
                rows.append(_row(one, "peak_memory", "B", [one.child.call("peak_memory")]))
    return {"lengths": asdict(lengths), "rows": rows, "not_run": not_run}


def _on_gpus(
    artifacts: dict[str, Path], lengths: Lengths, stack: ExitStack
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Find the GPUs that can run each artifact here, and reasons for those that cannot."""
    contenders, not_run = [], []
    for name, path in artifacts.items():
        for gpu in entry_of(path).gpus:
            try:
                if reason := gpu.why_not():
                    raise MachineError(reason)
                child = stack.enter_context(start(path, 1, gpu.name))
                _warm_up(child, lengths)
                contenders.append(Contender(name, gpu.name, 1, child))
            except MachineError as error:
                not_run.append({"artifact": name, "device": gpu.name, "why": str(error)})
    return contenders, not_run


def _warm_up(child: Child, lengths: Lengths) -> None:
    """Warm up: first calls allocate memory and load pages."""
    for batch in lengths.batch:
        child.call("decode_seconds", prompt_tokens=lengths.depth, tokens=2, batch=batch)


def _measured(one: Contender, lengths: Lengths) -> Iterator[tuple[str, str, float]]:
    for batch, tokens in product(lengths.batch, lengths.prefill):
        seconds = one.child.call("prefill_seconds", tokens=tokens, batch=batch)
        yield _name("pp", tokens, batch), "tokens/s", batch * tokens / seconds
    if lengths.first_token:
        first = time.perf_counter()
        one.child.call("decode_seconds", prompt_tokens=max(lengths.prefill), tokens=1)
        yield "first_token", "s", time.perf_counter() - first
    for batch, tokens in product(lengths.batch, lengths.decode):
        with _energy(one.device) as used:
            seconds = one.child.call(
                "decode_seconds", prompt_tokens=lengths.depth, tokens=tokens, batch=batch
            )
        yield _name("tg", tokens, batch), "tokens/s", batch * tokens / seconds
        if used:
            yield _name("energy", tokens, batch), "J/token", used[0] / (batch * tokens)


def _name(test: str, tokens: int, batch: int) -> str:
    return f"{test}{tokens}" if batch == 1 else f"{test}{tokens} b{batch}"


@contextmanager
def _energy(device: str) -> Iterator[list[float]]:
    """Record the energy used, including the prompt, if the device can report it."""
    found: list[float] = []
    before = joules(device)
    yield found
    after = joules(device)
    if before is not None and after is not None and after >= before:
        found.append(after - before)


def _cold_load(path: Path, threads: int) -> float | None:
    """Time loading without the page cache, in seconds; None if pages cannot be dropped."""
    if not hasattr(os, "posix_fadvise"):
        return None
    files = list(path.iterdir()) if path.is_dir() else sorted(path.parent.glob(f"{path.name}*"))
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with start(path, threads) as child:
        return child.call("info")["load_seconds"]


def _row(
    one: Contender, test: str, unit: str, samples: list[float], info: dict[str, Any] | None = None
) -> dict[str, Any]:
    row = {"artifact": one.name, "device": one.device, "threads": one.threads, "test": test,
           "unit": unit, "samples": samples}  # fmt: skip
    if info:
        row |= {"runtime": info["version"], "bytes": info["file_bytes"]}
    return row
