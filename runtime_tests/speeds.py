"""Speeds of a build's artifacts: in turns, each in fresh processes."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime_tests.child import Child, start
from runtime_tests.paired import CONFIDENCE, by_process, speed_ratio
from runtime_tests.timing import Contender, blocks

if TYPE_CHECKING:
    from runtime_tests.run import Plan, Stage

# In a round: prefill, which shared machines disturb most, is short and run twice.
RUNS = 3


def timed(
    artifacts: Mapping[str, Path], plan: "Plan", stage: "Stage", device: str = "CPU"
) -> dict[str, dict[str, list[list[float]]]]:
    """Time prompts and decoding, and note what each process holds at its peak."""

    def prefill(child: Child) -> dict[str, float]:
        seconds = child.call("prefill_seconds", tokens=plan.prefill_tokens)
        return {"prefill": plan.prefill_tokens / seconds}

    def decode(child: Child) -> dict[str, float]:
        seconds = child.call(
            "decode_seconds", prompt_tokens=plan.prefill_tokens, tokens=plan.decode_tokens
        )
        return {"decode": plan.decode_tokens / seconds}

    def warm_up(child: Child) -> float:
        return child.call("decode_seconds", prompt_tokens=plan.prefill_tokens, tokens=8)

    contenders = {
        name: Contender(
            partial(start, path, plan.threads, device), (prefill, decode, prefill), warm_up,
            lambda child: {"peak_memory": child.call("peak_memory")},
        )
        for name, path in artifacts.items()
    }  # fmt: skip
    *_, timings = islice(blocks(contenders, plan.rounds, stage.advance), plan.processes)
    return timings.samples


def speeds(found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Compute each artifact's speeds of its processes."""
    return {kind: _speed(found[kind]) for kind in ("prefill", "decode")}


def _speed(processes: list[list[float]]) -> dict[str, Any]:
    found = by_process(processes)
    return {
        "unit": "tokens/s",
        "median": float(np.median(found)),
        "sd": float(np.std(found, ddof=1)) if len(found) > 1 else None,
        "samples": processes,
    }


def ratio(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """Compute a ratio of speeds; it has no interval if there was one process of each."""
    if len(before["samples"]) < 2:
        return {"value": after["median"] / before["median"], "low": None, "high": None}
    return asdict(speed_ratio(before["samples"], after["samples"], CONFIDENCE))
