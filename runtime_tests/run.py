"""The runtime test of a build: dense and pruned models, interleaved, each in a child process."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeprune.support.errors import CheckFailed, InputError, MachineError
from edgeprune.support.files import number
from runtime_tests import accuracy, calls, speech
from runtime_tests.accuracy import Answered, Item
from runtime_tests.child import Child, start
from runtime_tests.devices import Gpu
from runtime_tests.runners import entry_of
from runtime_tests.speech import Speech
from runtime_tests.speeds import RUNS, ratio, speeds, timed

_ITEMS_PER_CALL = 16


class Stage(Protocol):
    """A progress stage."""

    def advance(self, steps: int = 1) -> None:
        """Report that some steps are done."""


@dataclass(frozen=True)
class Plan:
    """Settings of a measurement.

    Attributes:
        items: evaluation rows of the task.
        metric: ``acc``, ``acc_norm``, ``exact_match``, ``exact_call`` or ``nats``.
        max_answer_tokens: maximum length of greedy answers for the metrics that are ``exact``.
        stop: texts that end such an answer.
        general_text: text for general perplexity.
        perplexity_tokens: number of its tokens to read.
        prefill_tokens: prompt length for timing.
        decode_tokens: number of tokens decoded for timing.
        processes: number of fresh processes of each artifact that are timed.
        rounds: number of rounds in each of them.
        threads: number of runtime threads.
        speech: what models are asked beside the task; None: nothing.
    """

    items: list[Item]
    metric: str
    max_answer_tokens: int
    general_text: str
    perplexity_tokens: int
    prefill_tokens: int
    decode_tokens: int
    processes: int
    rounds: int
    threads: int
    speech: Speech | None = None
    stop: tuple[str, ...] = ()


def run(
    artifacts: dict[str, Path],
    plan: Plan,
    progress: Callable[[str, int], AbstractContextManager[Stage]],
) -> dict[str, Any]:
    """Measure artifacts under equal conditions.

    Args:
        artifacts: ``dense`` and ``pruned``; only ``dense`` if nothing was pruned. Others are
            rivals, dense models in other types.
        plan: settings of the measurement.
        progress: begins a progress stage of so many steps.

    Returns:
        A JSON-like record: one entry per artifact, ``difference`` when there are two, and
        ``rivals``, the same beside each of them.

    Raises:
        MachineError: the runtime rejected an artifact or crashed on it.
        CheckFailed: a likelihood is NaN or infinite; the message names the row or text window.
    """
    with progress("time", RUNS * plan.processes * plan.rounds * len(artifacts)) as stage:
        timings = timed(artifacts, plan, stage)
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(start(path, plan.threads)) for name, path in artifacts.items()
        }
        with progress("evaluate", len(plan.items) * len(children)) as stage:
            answered = _answer(children, plan, stage)
        called = _calls(children, plan, answered, progress)
        with progress("perplexity", len(children)) as stage:
            perplexities = {}
            for name, child in children.items():
                perplexities[name] = _perplexity(child, plan)
                stage.advance()
        spoken: dict[str, dict[str, Any]] = {}
        if plan.speech:
            spoken = speech.measure(children, plan.speech, progress)
        records = {
            name: {
                **child.call("info"),
                # loaded and decoding, before any scoring
                "peak_memory_bytes": max(timings[name]["peak_memory"])[0],
                **_judged(answered[name]),
                "answers": _answers(plan, answered[name]),
                "general_perplexity": perplexities[name],
                **speeds(timings[name]),
                **spoken.get(name, {}),
                **called.get(name, {}),
            }
            for name, child in children.items()
        }
    return _summary(records, answered, plan)


def run_on_gpus(
    artifact: Path,
    plan: Plan,
    progress: Callable[[str, int], AbstractContextManager[Stage]],
    gpus: Sequence[Gpu] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure an artifact on every GPU that its runtime can use here.

    Args:
        artifact: file or folder.
        plan: what to measure.
        progress: begins a stage of so many steps.
        gpus: by default those that a build measures on, which only some runtimes have.

    Returns:
        For each GPU its figures as `run` gives them, why it was ``not_run``, or how it
        ``failed``: what runs on the CPU may be too large for a GPU.
    """
    entry = entry_of(artifact)
    if gpus is None:
        gpus = entry.gpus if entry.builds_on_gpus else ()
    found: dict[str, dict[str, Any]] = {}
    for gpu in gpus:
        if reason := gpu.why_not():
            found[gpu.name] = {"not_run": reason}
            continue
        try:
            with progress(f"time on {gpu.name}", RUNS * plan.processes * plan.rounds) as stage:
                timings = timed({gpu.name: artifact}, plan, stage, gpu.name)[gpu.name]
            with (
                start(artifact, plan.threads, gpu.name) as child,
                progress(f"evaluate on {gpu.name}", len(plan.items)) as stage,
            ):
                answered = _answer({gpu.name: child}, plan, stage)[gpu.name]
        except (MachineError, InputError) as error:
            found[gpu.name] = {"failed": " ".join(str(error).split())}
        else:
            found[gpu.name] = _judged(answered) | speeds(timings)
    return found


def quality(
    artifact: Path, plan: Plan, progress: Callable[[str, int], AbstractContextManager[Stage]]
) -> dict[str, Any]:
    """Score one artifact on the task and on general text, without timing it.

    Args:
        artifact: the model file.
        plan: settings of the measurement; general text is skipped if ``perplexity_tokens`` is 0.
        progress: begins a progress stage of so many steps.

    Returns:
        ``accuracy``, ``nats_per_answer_token``, ``general_perplexity``, ``answers`` row by row,
        the chance level, and whether the accuracy is near it; JSON-like.
    """
    with (
        start(artifact, plan.threads) as child,
        progress("evaluate", len(plan.items) + bool(plan.perplexity_tokens)) as stage,
    ):
        answered = _answer({"model": child}, plan, stage)["model"]
        record = _judged(answered) | {"answers": _answers(plan, answered)}
        if plan.perplexity_tokens:
            record["general_perplexity"] = _perplexity(child, plan)
            stage.advance()
        record |= _calls({"model": child}, plan, {"model": answered}, progress).get("model", {})
    line = accuracy.chance_level(plan.items)
    near = accuracy.near_chance(record["accuracy"], line)
    return record | {"chance_level": line, "near_chance": near}


def _judged(answered: list[Answered]) -> dict[str, Any]:
    return {
        "accuracy": accuracy.accuracy_interval(answered),
        "nats_per_answer_token": accuracy.nats_per_token(answered),
    }


def _answers(plan: Plan, answered: list[Answered]) -> dict[str, list[Any]]:
    """Record every row's result, so that another build can be compared on the same rows."""
    return {
        "rows": [item.id for item in plan.items],
        "correct": [one.correct for one in answered],
        "nats": [one.nats for one in answered],
        "tokens": [one.tokens for one in answered],
    }


def _summary(
    records: dict[str, Any], answered: dict[str, list[Answered]], plan: Plan
) -> dict[str, Any]:
    line = accuracy.chance_level(plan.items)
    dense = records["dense"]
    result: dict[str, Any] = {
        "metric": plan.metric,
        "rows": len(plan.items),
        "chance_level": line,
        "base_near_chance": accuracy.near_chance(dense["accuracy"], line),
        "threads": plan.threads,
        "artifacts": records,
    }
    if "pruned" in records:
        beside = {
            name: _difference(records, answered, name) for name in records if name != "pruned"
        }
        result["difference"] = beside.pop("dense")
        result["rivals"] = beside
    return result


def _difference(
    records: dict[str, Any], answered: dict[str, list[Answered]], name: str
) -> dict[str, Any]:
    """Compare ``pruned`` with another artifact."""
    before, pruned = records[name], records["pruned"]
    return {
        "accuracy_points": None
        if before["accuracy"] is None
        else 100 * (pruned["accuracy"]["value"] - before["accuracy"]["value"]),
        "nats_per_answer_token": accuracy.nats_difference(answered[name], answered["pruned"]),
        "decode_speed": ratio(before["decode"], pruned["decode"]),
        "prefill_speed": ratio(before["prefill"], pruned["prefill"]),
    }


def _answer(children: dict[str, Child], plan: Plan, stage: Stage) -> dict[str, list[Answered]]:
    answered: dict[str, list[Answered]] = {name: [] for name in children}
    for start_at in range(0, len(plan.items), _ITEMS_PER_CALL):
        items = plan.items[start_at : start_at + _ITEMS_PER_CALL]
        requests = [i.request() for i in items]
        for name, child in children.items():
            scores = child.call("score", items=requests)
            for item, choices in zip(items, scores, strict=True):
                what = f"Row {item.id}: the likelihood of an answer"
                _refuse_not_finite(child, what, (choice["logprob"] for choice in choices))
            written: list[str | None] = [None] * len(items)
            if plan.metric in accuracy.WRITTEN:
                replies = child.call(
                    "reply", items=requests, max_tokens=plan.max_answer_tokens, stop=plan.stop
                )
                written = [reply["text"] for reply in replies]
            answered[name] += [
                accuracy.judge(item, score, plan.metric, text)
                for item, score, text in zip(items, scores, written, strict=True)
            ]
            stage.advance(len(items))
    return answered


def _calls(
    children: Mapping[str, Child],
    plan: Plan,
    answered: Mapping[str, list[Answered]],
    progress: Callable[[str, int], AbstractContextManager[Stage]],
) -> dict[str, dict[str, Any]]:
    """Judge calls of functions, if that is what the task asks for."""
    rows = [(item.chat, item.request()) for item in plan.items if item.chat]
    if plan.metric != "exact_call" or not rows:
        return {}
    written = {name: [one.written or "" for one in of] for name, of in answered.items()}
    able = {name for name, child in children.items() if entry_of(child.artifact).grammars}
    found = calls.measure(children, able, rows, written, plan.max_answer_tokens, progress)
    return {name: {"calls": one} for name, one in found.items()}


def _perplexity(child: Child, plan: Plan) -> dict[str, Any]:
    found = child.call("perplexity", text=plan.general_text, tokens=plan.perplexity_tokens)
    if not found["tokens"]:
        raise InputError(
            "The general text for perplexity has fewer than 512 tokens.",
            "Choose a longer general corpus with --general.",
        )
    for index, nats in enumerate(found["nats"], 1):
        _refuse_not_finite(child, f"Window {index} of the general text: its likelihood", [nats])
    value = accuracy.perplexity(found["nats"], found["tokens"])
    return value | {"tokens": found["tokens"], "window_nats": found["nats"]}


def _refuse_not_finite(child: Child, what: str, values: Iterable[float]) -> None:
    """Raise an error for NaN or infinity, which would otherwise pass as a result."""
    for value in values:
        if not math.isfinite(value):
            raise CheckFailed(
                f"{what} is {number(value)} in {child.call('info')['runtime']} ({child.artifact}).",
                "Activations overflow, or weights are damaged. Try --type f32 (onnx: fp32), and "
                "check the dense model.",
            )
