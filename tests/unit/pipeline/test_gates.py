"""Gates hold where the worse end of the interval does."""

import re

import numpy as np

from edgeprune import Recipe
from edgeprune.pipeline.gates import failures


def gate_results(lost: int, won: int, rows: int, rise: float, speed: float) -> dict:
    """Of a dense model that is right on half of its rows, and a pruned one in 5 processes."""
    half, decode = rows // 2, np.array([[100.0], [60], [98], [103], [61]])
    right = [True] * half + [False] * half
    changed = [False] * lost + right[lost:half] + [True] * won + right[half + won :]
    nats = np.random.default_rng(0).gamma(4, 1, rows)
    made = nats * (1 + rise) + np.random.default_rng(1).permutation(np.linspace(-1, 1, rows))
    artifacts = {
        "dense": {"answers": {"correct": right, "nats": nats.tolist()},
                  "decode": {"samples": decode.tolist()}},
        "pruned": {"answers": {"correct": changed, "nats": made.tolist()},
                   "decode": {"samples": (speed * decode).tolist()}},
    }  # fmt: skip
    return {"artifacts": artifacts, "difference": {}}


def test_gates_hold_where_the_worse_end_of_the_interval_does():
    results = gate_results(lost=7, won=3, rows=200, rise=0.1, speed=0.9)

    def lines(**gates):
        return failures(Recipe.of({"gates": gates}, task="t"), results)

    assert lines() == []
    assert lines(max_accuracy_loss=5, max_nats_increase=0.13, min_decode_speed=0.899) == []
    within = lines(max_accuracy_loss=3)[0]  # 2 points were lost: 4.8 can't be excluded
    assert within.startswith("Accuracy changed by -2.0 points (-4.8 to +0.8, each end with 95%")
    assert re.search(r"200 rows are too few to show that it holds, about \d,\d00 would", within)
    assert lines(max_accuracy_loss=3, confidence=0.6) == []
    assert "would" not in lines(max_accuracy_loss=1)[0]
    beyond = lines(max_nats_increase=0.11)[0]
    assert beyond.startswith("Nats per answer token changed by +10.0% (+8.3% to +11.7%, each end")
    assert "0.90x" in lines(min_decode_speed=0.91)[0]
    results["artifacts"]["pruned"]["decode"]["samples"][2] = [60.0]  # a slow process of one alone
    assert re.search(r"0\.8\dx the dense baseline's speed \(0\.\d+x to .* in 5 processes",
                     lines(min_decode_speed=0.89)[0])  # fmt: skip
    for artifact in results["artifacts"].values():
        artifact["answers"]["correct"] = [None] * 200
    assert "no accuracy" in lines(max_accuracy_loss=5)[0]
    del results["difference"]
    assert lines() == []
    assert "nothing was pruned" in lines(min_decode_speed=0.5)[0]


def test_gates_on_speech_hold_where_the_worse_end_does():
    agreement = {"nats": {"value": 0.2, "low": 0.1, "high": 0.3},
                 "same_top": {"value": 0.8, "low": 0.75, "high": 0.85}}  # fmt: skip
    speech = {"loops": 0.1, "answers": ["a"] * 30}
    pruned = {"agreement": {"chat": agreement}, "speech": speech}
    results = {"artifacts": {"dense": {}, "pruned": pruned}, "difference": {}}

    def lines(**gates):
        return failures(Recipe.of({"gates": gates}, task="t"), results)

    assert lines(max_kl=0.3, min_same_top=0.75, max_loops=0.1) == []
    kl, same, loops = lines(max_kl=0.29, min_same_top=0.76, max_loops=0.09)
    assert kl.startswith("On held-out chat, predictions diverge from the dense model's by 0.200")
    assert "80.0% of places (75.0% to 85.0%); the least is 76.0%" in same
    assert loops == "10% of 30 answers repeat themselves; the limit is 9%."
    pruned["speech"] = None
    assert "no chat template" in lines(max_loops=0.5)[0]
    pruned["agreement"] = {}
    assert len(lines(max_kl=9, min_same_top=0)) == 2  # nothing measured is not passed
    assert lines() == []
