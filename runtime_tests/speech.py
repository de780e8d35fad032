"""How a model still speaks: its predictions beside the dense model's, and answers to read."""

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime_tests.child import Child
from runtime_tests.paired import CONFIDENCE, bootstrap

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runtime_tests.run import Stage

_WORST = 99  # percentile of divergences
# Groups of words by which a text is seen to repeat itself, or its prompt: of at least so many, so
# few are different, or so many stand in the prompt.
_GRAM, _SHORT, _LEAST_DIFFERENT, _MOST_COPIED = 4, 12, 0.6, 0.5


@dataclass(frozen=True)
class Reading:
    """A sequence whose predictions are compared.

    Attributes:
        ids: its tokens.
        places: the tokens behind which predictions count.
    """

    ids: list[int]
    places: list[int]


@dataclass(frozen=True)
class Prompt:
    """A turn to answer.

    Attributes:
        text: what the user says.
        ids: the whole prompt, in the model's chat template.
    """

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Speech:
    """What a model is asked to show how it speaks.

    Attributes:
        readings: by stream, ``text`` and, if the model has a chat template, ``chat``.
        prompts: none if the model has no chat template.
        max_tokens: of an answer.
    """

    readings: dict[str, list[Reading]]
    prompts: list[Prompt]
    max_tokens: int


def measure(
    children: Mapping[str, Child],
    speech: Speech,
    progress: "Callable[[str, int], AbstractContextManager[Stage]]",
) -> dict[str, dict[str, Any]]:
    """Let models predict and answer.

    Args:
        children: ``dense``, to which the others are compared, and more.
        speech: what is asked.
        progress: begins a progress stage of so many steps.

    Returns:
        By model ``agreement`` with the dense one, by stream (nothing for the dense one itself), and
        ``speech``, its answers and what is wrong with them (None without prompts).
    """
    found: dict[str, dict[str, Any]] = {name: {"agreement": {}} for name in children}
    with progress("predict", len(children) * len(speech.readings)) as stage:
        for stream, readings in speech.readings.items():
            compared = _agreement(children, readings, stage)
            for name, one in compared.items():
                found[name]["agreement"][stream] = one
    with progress("answer", len(children) * bool(speech.prompts)) as stage:
        written = {}
        for name, child in children.items():
            if speech.prompts:
                written[name] = child.call(
                    "write", prompts=[p.ids for p in speech.prompts], max_tokens=speech.max_tokens
                )
                stage.advance()
    for name in children:
        said = written.get(name)
        found[name]["speech"] = said and _speech(speech.prompts, said, written["dense"])
    return found


def _agreement(
    children: Mapping[str, Child], readings: Sequence[Reading], stage: "Stage"
) -> dict[str, dict[str, Any]]:
    rows = [asdict(one) for one in readings]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "dense.npy")
        children["dense"].call("predict", rows=rows, file=file)
        stage.advance()
        for name, child in children.items():
            if name != "dense":
                compared = child.call("divergence", rows=rows, file=file)
                found[name] = _summary(readings, compared["nats"], compared["same"])
                stage.advance()
    return found


def _summary(
    readings: Sequence[Reading], nats: Sequence[float], same: Sequence[bool]
) -> dict[str, Any]:
    """Means over places; what stands in one sequence is resampled together."""
    sizes = np.array([len(one.places) for one in readings], float)
    ends = np.cumsum(sizes).astype(int)[:-1]
    nats_of, same_of = (
        np.array([part.sum() for part in np.split(np.array(values, float), ends)])
        for values in (nats, same)
    )

    def mean(values: np.ndarray) -> dict[str, float]:
        return asdict(
            bootstrap(
                lambda rows: values[rows].sum(-1) / sizes[rows].sum(-1), len(readings), CONFIDENCE
            )
        )

    return {
        "nats": mean(nats_of),
        "worst_nats": float(np.percentile(nats, _WORST)),
        "same_top": mean(same_of),
        "places": len(nats),
        "row_nats": nats_of.tolist(),
        "row_places": [len(one.places) for one in readings],
    }


def _speech(
    prompts: Sequence[Prompt], said: list[dict[str, Any]], dense: list[dict[str, Any]]
) -> dict[str, Any]:
    texts = [one["text"] for one in said]
    return {
        "prompts": [prompt.text for prompt in prompts],
        "answers": texts,
        "loops": sum(map(loops, texts)) / len(texts),
        "copies": sum(copies(t, p.text) for t, p in zip(texts, prompts, strict=True)) / len(texts),
        "ended": sum(one["ended"] for one in said) / len(said),
        "agreed_tokens": float(
            np.mean([_agreed(a["tokens"], b["tokens"]) for a, b in zip(said, dense, strict=True)])
        ),
    }


def loops(text: str) -> bool:
    """Tell whether a text repeats itself: fewer than 60 % of its groups of four words differ."""
    grams = _grams(text)
    count = sum(grams.values())
    return count >= _SHORT and len(grams) < _LEAST_DIFFERENT * count


def copies(text: str, prompt: str) -> bool:
    """Tell whether most of a text's groups of four words stand in its prompt."""
    grams, given = _grams(text), _grams(prompt)
    return bool(grams) and sum(given[one] > 0 for one in grams) > _MOST_COPIED * len(grams)


def _grams(text: str) -> Counter[tuple[str, ...]]:
    words = text.casefold().split()
    return Counter(zip(*(words[start:] for start in range(_GRAM)), strict=False))


def _agreed(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens before two texts differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
