"""Pages and cards of manifests that nobody built."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from edgeprune.manifest.base import Interval
from edgeprune.manifest.manifest import PlannedTensor
from edgeprune.recipe.schema import make
from edgeprune.regression.history import Entry
from edgeprune.report import card, page, tensors
from edgeprune.report.caveats import caveats
from edgeprune.report.comparison import as_json, entries, front, render
from edgeprune.report.verdict import verdict
from edgeprune.report.words import interval_text
from tests.support.manifests import sample_manifest


def test_the_page_shows_the_plan_and_every_figure():
    text = page.render(sample_manifest())
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "Results", "Accuracy, likelihood and perplexity", "Latency", "Size", "Recovery: finetune",
        "Sparsity by layer and matrix", "Channels that only one stream needs", "How it was made",
        "Plan",
    ]  # fmt: skip
    row = "".join(f"<td>{cell}</td>" for cell in (
        "model.layers.*.mlp.up_proj.weight", "2", "128x64", "Q8_0", "50% unstructured", "0.0 MB",
    ))  # fmt: skip
    assert row in text
    assert "packed 1.2 MB" in text or "packed file: 1.2 MB" in text
    assert "window_nats" in text  # under "Everything else", without single answers
    assert "e1" not in re.search(r"<pre>(.*?)</pre>", text, re.S)[1].partition("results")[2]


def test_checks_are_plotted_and_drift_is_said():
    entries = [
        Entry(
            date=f"2026-11-{day:02d}T12:00:00Z", commit="", build="b", artifact=f"a{day}",
            baseline="a0", verdict="held", losses={"decode, x baseline": 0.01 * day},
        )
        for day in range(1, 10)
    ]  # fmt: skip
    text = page.render(sample_manifest(), entries)
    assert "<h2>9 checks</h2>" in text
    assert "decode, x baseline, % lost" in text
    assert "from 2026-11-01 to 2026-11-09: held 9; drift: decode, x baseline" in text
    assert "checks</h2>" not in page.render(sample_manifest(), entries[:1])


def test_tensors_of_one_kind_stand_on_one_line():
    first, second = sample_manifest().plan
    other = second.model_copy(update={"pattern": "2:4"})
    assert [len(rows) for rows in tensors.by_kind([first, second])] == [2]
    assert [len(rows) for rows in tensors.by_kind([first, other])] == [1, 1]
    dense = PlannedTensor.model_validate(
        first.model_dump() | {"zeros": 0, "name": "lm_head.weight"}
    )
    assert tensors.cells([dense])[:5] == ("lm_head.weight", "1", "128x64", "Q8_0", "-")


def test_caveats_say_what_the_numbers_do_not():
    said = caveats(sample_manifest())
    assert said[0] == (
        "The dense model's accuracy, 0.333 (0.060-0.790), can't be told from chance level (0.250), "
        "so accuracy can't show what pruning costs. Compare the likelihood of the right answer "
        "(nats per answer token) instead."
    )
    text = "\n".join(said)
    for part in (
        "pruned gradually, in 2 rounds: it was trained at 40% sparsity before the last one",
        "were trained for 40 steps on the task's answers and on general text; 25% of the sequences",
        "The loss on held-out sequences went from 3.500 to 3.000 nats per token.",
        "no smaller than the dense one",
        "takes 1.2 MB, 60% of the dense file",
        "Pruning with training costs 0.20 nats per answer token (0.10 to 0.30)",
        "The dense baseline was not trained on the task",
        "CUDA was not run: no GPU.",
    ):
        assert part in text
    assert said[-1] == "Not a medical device."


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "measured"),
        ({"recipe__gates": {"min_decode_speed": 1.0}}, "held"),
        ({"gates": ["Decode is too slow."]}, "failed"),
    ],
)
def test_the_verdict_goes_by_the_gates(changes, word):
    assert verdict(sample_manifest(**changes))[0] == word


def test_the_card_makes_the_same_recipe_again():
    settings = {
        "data": {"task": "medqa"},
        "pruning": {"pattern": "2:4"},
        "artifact": {"type_map": {"ffn_up": "f16", "attn": "q4_0"}},
        "training": {"enabled": True, "rank": 4},
    }
    manifest = sample_manifest(recipe=settings)
    text = card.render(manifest)
    chosen = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    assert make(chosen) == manifest.recipe
    assert "measurement" not in chosen  # a default
    assert ModelCard(text).data.datasets == ["a/medqa"]


def test_the_card_of_a_plain_export_says_that_nothing_was_pruned():
    text = card.render(
        sample_manifest(recipe__pruning={"sparsity": 0}, recipe__training={}, training=None)
    )
    assert "exported tiny as GGUF q8_0. No weights were pruned." in text
    assert "pruned" not in ModelCard(text).data.tags


def test_other_tasks_and_machines_are_not_mixed():
    here = sample_manifest()
    there = sample_manifest(machine={**here.machine.model_dump(), "processor": "another"})
    assert "measured on several machines" in render(entries({Path("a"): here, Path("b"): there}))
    data = here.data.model_dump()
    data["task"]["name"] = "other"
    other = there.model_copy(update={"data": sample_manifest(data=data).data})
    found = render(entries({Path("a"): here, Path("b"): other}))
    assert found.count('class="verdict"') == 2
    assert "measured on several machines" not in found


def test_builds_and_their_dense_baseline_are_compared():
    found = entries({Path("a"): sample_manifest(), Path("b"): sample_manifest(packed=None)})
    assert [(entry.label, entry.name, entry.bytes) for entry in found] == [
        ("A", "a", 1_200_000), ("B", "b", 2_000_000), ("q8_0", "", 2_000_000),
    ]  # fmt: skip
    assert "On the Pareto front of size and task loss: A." in render(found)
    assert "possibly dense): B." in render(found)
    assert as_json(found)[0]["nats"] == {"value": 1.2, "low": 0.9 * 1.2, "high": 1.1 * 1.2}


def test_the_front_is_what_nothing_beats():
    assert front([(1, 3), (2, 2), (3, 1), (3, 3), (2, 2)]) == [True, True, True, False, True]


def test_intervals_as_text():
    assert interval_text(Interval(value=0.5, low=0.25, high=1), 2) == "0.50 (0.25-1.00)"
    assert interval_text(None, 2) == "-"
