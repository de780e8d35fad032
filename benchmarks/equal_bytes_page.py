"""The page and the plot of `benchmarks.equal_bytes`."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from edgeprune.report import plots
from runtime_tests import paired
from runtime_tests.paired import CONFIDENCE

Records = list[dict[str, Any]]
_MORE = 1.15  # bytes of a dense file that a chosen one is to be as good as


def page(found: dict[str, Records], about: dict[str, Any], plot_name: str) -> str:
    lines = [
        "# The chosen file, and dense ones of its size",
        "",
        f"Written by `benchmarks/equal_bytes.py`. {about['model']}; every model is trained "
        f"alike: {about['steps']} steps of {about['tokens']:,} tokens, half of them the task's "
        "(its answers are learnt) and half WikiText-2 (learnt from the dense model's predictions "
        "and its own tokens). Files of Q4_0, Q5_0 and codes are trained on their grid after 5 % of "
        "the steps, with their scales; other types are quantised by ggml with the importances of "
        "the calibration data, and where rows do not divide by 256, K and IQ types give way to "
        "larger ones, as in llama.cpp. Chosen files are packed; bytes are "
        f"those of the file. {about['rows']} evaluation rows; nats a question are of the whole "
        "right answer, with 95 % intervals over rows; general text is WikiText-2, its bits a byte "
        "beside the dense model as it came. **Bold**: no smaller file is as good at the task.",
        "",
        about["machine"],
        "",
        f"![Bytes against nats a question and general text]({plot_name})",
    ]
    for task, records in found.items():
        lines += ["", f"## {task}", "", *_table(records), "", *_comparisons(records)]
    return "\n".join([*lines, "", "## Predicted and measured", "", *_predictions(found), ""])


def _table(records: Records) -> Iterator[str]:
    headings = ("file", "MB", "nats / question", "accuracy", "general text", "decode, tokens/s",
                "prefill, tokens/s", "peak memory, MB")  # fmt: skip
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " --- |" * len(headings)
    for one in sorted(records, key=lambda record: record["bytes"]):
        low, high = _interval(one)
        best = on_front(one, records, nats)
        cells = [
            f"**{label(one)}**" if best else label(one),
            f"{one['bytes'] / 1e6:.1f}",
            f"{nats(one):.2f} ({low:.2f}-{high:.2f})",
            f"{one['accuracy']['value']:.3f}",
            f"{general(one, records):+.1%}",
            _speed(one, "tg64"),
            _speed(one, "pp256"),
            _speed(one, "peak_memory", 1e6),
        ]
        yield "| " + " | ".join(cells) + " |"


def _comparisons(records: Records) -> Iterator[str]:
    """Each chosen file beside the best dense one of as many bytes, and of some more."""
    dense = [one for one in records if not one["ours"] and one["trained"]]
    for own in sorted((one for one in records if one["ours"]), key=lambda one: one["bytes"]):
        words = []
        for factor, of in ((1.005, "its size"), (_MORE, f"{_MORE:g} times its size")):
            rivals = [one for one in dense if one["bytes"] <= factor * own["bytes"]]
            if rivals:
                rival = min(rivals, key=nats)
                change = paired.nats_rise(
                    rival["answers"]["nats"], own["answers"]["nats"], CONFIDENCE
                )
                words.append(
                    f"beside {label(rival)} ({rival['bytes'] / 1e6:.1f} MB), the best of at most "
                    f"{of}: {change.value:+.1%} nats ({change.low:+.1%} to {change.high:+.1%})"
                )
        if words:
            yield f"- {label(own)}: {'; '.join(words)}."


def _predictions(found: dict[str, Records]) -> Iterator[str]:
    for task, records in found.items():
        sized = [one for one in records if one["predicted_bytes"]]
        if sized:
            errors = [abs(one["bytes"] / one["predicted_bytes"] - 1) for one in sized]
            yield f"- {task}: sizes of {len(sized)} chosen files, within {max(errors):.2%}."
        rated = [one for one in records if one["predicted"] is not None and one["trained"]]
        if len(rated) > 2:
            predicted = [one["predicted"] for one in rated]
            ranks = [spearmanr(predicted, [measure(one) for one in rated]).statistic
                     for measure in (nats, _text)]  # fmt: skip
            yield (
                f"- {task}: predicted loss before training against what {len(rated)} files lose "
                f"after it, rank correlation {ranks[0]:.2f} (nats a question), {ranks[1]:.2f} "
                "(general text)."
            )


def plot(found: dict[str, Records]) -> str:
    panels = []
    for task, records in found.items():
        for measure, words in ((nats, "nats / question"), (_text, "bits / byte beside dense")):
            marks = [
                plots.Mark(
                    _short(one), one["bytes"] / 1e6,
                    general(one, records) if measure is _text else nats(one),
                    not one["ours"], on_front(one, records, measure),
                )
                for one in records
                if one["trained"] and (on_front(one, records, measure) or one["ours"])
            ]  # fmt: skip
            panels.append((f"file, MB: {task}", words, marks))
    return plots.pareto(*panels)


def nats(one: dict[str, Any]) -> float:
    """Nats of a question's right answer."""
    return float(np.mean(one["answers"]["nats"]))


def _text(one: dict[str, Any]) -> float:
    return math.log(one["general_perplexity"]["value"])


def general(one: dict[str, Any], records: Records) -> float:
    """How many more bits a byte general text takes than in the dense model as it came."""
    dense = next(record for record in records if not record["trained"])
    return _text(one) / _text(dense) - 1


def label(one: dict[str, Any]) -> str:
    own = not one["name"].startswith(("dense", "untrained"))
    name = one["name"] if own else one["type"]
    if one["embedding"] not in ("", "auto"):
        name += f", embedding {one['embedding']}"
    return name if one["trained"] else f"{name}, as it came"


def _short(one: dict[str, Any]) -> str:
    return label(one).replace("embedding ", "+ ").replace("chosen, ", "")


def _interval(one: dict[str, Any]) -> tuple[float, float]:
    values = np.array(one["answers"]["nats"])
    found = paired.bootstrap(lambda rows: values[rows].mean(-1), len(values), CONFIDENCE)
    return found.low, found.high


def on_front(one: dict[str, Any], records: Records, measure: Any) -> bool:
    """Whether no other file is smaller and as good."""
    return one["trained"] and not any(
        other["trained"] and other["bytes"] < one["bytes"] and measure(other) <= measure(one)
        for other in records
    )


def _speed(one: dict[str, Any], test: str, unit: float = 1.0) -> str:
    if test not in one["speeds"]:
        return "–"
    samples = np.array(paired.by_process(one["speeds"][test])) / unit
    spread = statistics.stdev(samples) if len(samples) > 1 else 0.0
    return f"{samples.mean():.0f} ± {spread:.0f}"
