"""A recipe in terms of training."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.pipeline import sparsify
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.recipe.schema import make
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError
from edgeprune.support.progress import Quiet


def job(**training: object) -> Job:
    """Of which only the recipe is looked at."""
    recipe = make({"data.task": "medqa", "data.seed": 7, "training": {"enabled": True, **training}})
    return Job(recipe, *[None] * 5)  # type: ignore[arg-type]


def test_a_recipe_in_terms_of_training():
    asked = job(budget="2m", task_share=0.3, batch=3, max_perplexity=4)
    how = sparsify._settings(asked, "finetune")
    assert (how.answers, how.task_share, how.text_share) == (True, 0.3, 0.5)
    assert (how.batch, how.max_perplexity, how.seconds, how.seed) == (3, 4, 120, 7)
    assert not sparsify._settings(asked, "distill").answers


def test_more_processes_than_sequences_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: (0, 4))
    with pytest.raises(
        UsageError, match=r"training\.batch is 2, fewer than the 4 processes"
    ) as raised:
        sparsify._refuse(job())
    assert "training.batch=4" in str(raised.value.hint)
    for fine in ({"batch": 4}, {"ways": ["reconstruct"]}):
        sparsify._refuse(job(**fine))


def test_rounds_share_the_time_and_only_the_last_is_rounded_on_data():
    run = Workspace(Path("out"), Quiet())
    asked = replace(job(start_sparsity=0.3, budget="3m"), run=run)
    first, second, last = sparsify._rounds(asked)
    assert [part.recipe.pruning.sparsity for part in (first, second, last)] == [0.3, 0.4, 0.5]
    assert {part.recipe.training.budget for part in (first, second, last)} == {"60.000s"}
    assert [part.recipe.artifact.rounding for part in (first, last)] == ["nearest", "auto"]
    assert first.run.folder == Path("out/work/round-0.300")
    assert last.run is run


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"training.start_sparsity": 0.5},
            "to a higher sparsity, but the recipe has pattern unstructured and sparsity 0.5",
        ),
        ({"training.rank": 8, "training.selective": True}, "remove training.rank"),
        ({"pruning.sparsity": 0, "training.ways": "distill"}, "already predicts as its teacher"),
        (
            {"training.rank": 8, "artifact.rounding": "gptq"},
            "as the last way, without training.rank",
        ),
        ({"training.ways": "finetune,distill"}, "in the order reconstruct, distill, finetune"),
        ({"training.budget": "soon"}, "is not a duration such as 90s"),
        ({"training.ways": "distil"}, "did you mean distill"),
        ({"training.task_share": 0}, "finetune learns the task"),
        (
            {"training.enabled": False, "training.start_sparsity": 0.4},
            "start_sparsity needs training: add --recover",
        ),
    ],
)
def test_recipes_that_make_no_sense(values, said):
    with pytest.raises(UsageError, match=said):
        make({"data.task": "medqa", "training.enabled": True} | values)
