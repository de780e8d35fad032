"""A missed goal is aimed at again, with what was measured, and at most twice."""

from types import SimpleNamespace as Of

import pytest

from edgeprune import Recipe
from edgeprune.pipeline import retry
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.goal import decided
from edgeprune.report.verdict import met, missed, verdict
from edgeprune.support.progress import Quiet


def job(folder, **goal):
    recipe = decided(Recipe.of(goal, task="medqa"))
    return of(recipe, Workspace(folder, Quiet()))


def of(recipe, run):
    return Of(recipe=recipe, run=run, changed=lambda changes: of(recipe.changed(changes), run))


def manifest(recipe, nats=-0.5, perplexity=20.0, decode=100.0, device=None):
    def artifact(text, speed):
        return Of(general_perplexity=Of(value=text), decode=Of(median=speed), file_bytes=90_000_000)

    return Of(
        gates=[], search=None, packed=Of(packed_bytes=60_000_000), recipe=recipe,
        data=Of(task=Of(name="medqa")),
        choice=Of(goal="it", bytes=60_100_000, decode=101.0, device=device), plan=[],
        results=Of(
            difference=Of(nats_per_answer_token=Of(value=nats)),
            artifacts={"dense": artifact(20.0, 50.0), "pruned": artifact(perplexity, decode)},
        ),
    )  # fmt: skip


def test_general_text_beyond_its_limit_tightens_the_bound_twice(tmp_path):
    first = job(tmp_path)
    bound = first.recipe.goal.divergence
    missed = manifest(first.recipe, perplexity=33.0)  # ln 33 / ln 20 is 1.167
    assert not met(missed)
    assert verdict(missed)[0] == "missed"
    second = retry.again(first, missed)
    assert second.recipe.goal.divergence == pytest.approx(bound * 0.09 / 0.1672, rel=0.01)
    assert retry.resumed(first).recipe == second.recipe  # a killed build goes on there
    third = retry.again(second, missed)
    assert third.recipe.goal.divergence < second.recipe.goal.divergence
    assert retry.again(third, missed) is None
    assert retry.resumed(first).recipe == third.recipe
    assert retry.resumed(job(tmp_path, **{"data.seed": 1})).recipe.goal.divergence == bound


def test_a_task_that_got_worse_tightens_the_bound_firmly(tmp_path):
    first = job(tmp_path)
    second = retry.again(first, manifest(first.recipe, nats=0.01))
    assert second.recipe.goal.divergence == pytest.approx(0.6 * first.recipe.goal.divergence)


def test_a_speed_that_was_missed_is_aimed_at_from_above(tmp_path):
    first = job(tmp_path, **{"goal.decode": 110})
    second = retry.again(first, manifest(first.recipe, decode=100.0))
    assert second.recipe.goal.reserve == pytest.approx(1.03 * 1.1 * 1.01 - 1, abs=1e-3)
    assert second.recipe.goal.decode == 110
    assert retry.again(second, manifest(second.recipe, decode=112.0)) is None


@pytest.mark.parametrize("goal", [{}, {"goal.size": "60MB"}, {"goal.memory": "80MB"}])
def test_what_is_met_or_known_beforehand_is_not_built_again(tmp_path, goal):
    first = job(tmp_path, **goal)
    assert retry.again(first, manifest(first.recipe, perplexity=20.5 if not goal else 90.0)) is None


def test_a_goal_that_was_asked_for_and_missed_fails_the_build(tmp_path):
    asked = job(tmp_path, **{"goal.decode": 120}).recipe
    assert missed(manifest(asked, decode=130.0)) == []
    (words,) = missed(manifest(asked, decode=110.0))
    assert words.startswith("The goal was missed. it: 110 measured, 101 predicted")
    default = job(tmp_path).recipe
    assert missed(manifest(default, nats=0.5)) == []  # it is said, and nothing more


def test_a_speed_on_another_device_is_predicted_not_met(tmp_path):
    asked = job(tmp_path, **{"goal.decode": 100, "goal.costs": "laptop.json"})
    found = manifest(asked.recipe, decode=60.0, device="a laptop, 4 cores")
    word, sentence = verdict(found)
    assert word == "predicted"
    assert "101 predicted on a laptop, 4 cores, where it has not been measured; 60 on" in sentence
    assert missed(found) == []
    assert retry.again(asked, found) is None
