"""A recipe in terms of training."""

import pytest

from edgeprune.pipeline import sparsify
from edgeprune.recipe.schema import make
from edgeprune.support import distributed
from edgeprune.support.errors import UsageError


def test_a_recipe_in_terms_of_training():
    values = {"recover_task_share": 0.3, "recover_batch": 3, "recover_max_perplexity": 4}
    recipe = make({"task": "medqa", "recover": True, "recover_budget": "2m", "seed": 7} | values)
    how = sparsify._settings(recipe, "finetune")
    assert (how.answers, how.task_share, how.text_share) == (True, 0.3, 0.5)
    assert (how.batch, how.max_perplexity, how.seconds, how.seed) == (3, 4, 120, 7)
    assert not sparsify._settings(recipe, "distill").answers


def test_more_processes_than_sequences_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: (0, 4))
    recipe = make({"task": "medqa", "recover": True})
    with pytest.raises(
        UsageError, match=r"training\.batch is 2, fewer than the 4 processes"
    ) as raised:
        sparsify._refuse_idle_processes(recipe)
    assert "training.batch=4" in str(raised.value.hint)
    for fine in ({"recover_batch": 4}, {"recover_by": ["reconstruct"]}):
        sparsify._refuse_idle_processes(recipe.model_copy(update=fine))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recover_from": 0.5}, "to a higher sparsity, given unstructured, 0.5"),
        ({"recover_rank": 8, "recover_selective": True}, "leave recover_rank out"),
        ({"sparsity": 0, "recover_by": "distill"}, "already predicts as its teacher"),
        ({"recover_rank": 8, "rounding": "feedback"}, "without recover_rank alone"),
        ({"recover_by": "finetune,distill"}, "in the order reconstruct, distill, finetune"),
        ({"recover_budget": "soon"}, "is not a time such as 90s"),
        ({"recover_by": "distil"}, "did you mean distill"),
        ({"recover_task_share": 0}, "finetune learns the task"),
        ({"recover": False, "recover_from": 0.4}, "recover_from is a setting of training: add"),
    ],
)
def test_recipes_that_make_no_sense(values, said):
    with pytest.raises(UsageError, match=said):
        make({"task": "medqa", "recover": True} | values)
