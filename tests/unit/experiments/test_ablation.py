"""What `edgeprune ablate` will try."""

import pytest

from edgeprune import Recipe
from edgeprune.experiments.ablation import Variant, variants
from edgeprune.support.errors import UsageError


def test_methods_that_see_no_data_have_no_fusion():
    rows = list(variants(["magnitude", "wanda"], ["mix", "task"], ["0.5", "2:4"]))
    assert rows == [
        Variant("magnitude", "", "0.5"),
        Variant("wanda", "mix", "0.5"),
        Variant("wanda", "task", "0.5"),
        Variant("magnitude", "", "2:4"),
        Variant("wanda", "mix", "2:4"),
        Variant("wanda", "task", "2:4"),
    ]


def test_mistakes_come_before_any_work(rows_file):
    recipe = Recipe.of(task=str(rows_file))
    with pytest.raises(UsageError, match="did you mean wanda"):
        Variant("wandaa", "mix", "0.5").recipe(recipe, 0)
    with pytest.raises(UsageError, match="sparsity"):
        Variant("wanda", "mix", "half").recipe(recipe, 0)


def test_a_variant_keeps_everything_else_of_the_recipe():
    given = {"artifact.type_map": {"ffn": "f16"}, "training.enabled": True, "data.samples": 3}
    base = Recipe.of(given, task="t", pattern="2:4")
    made = Variant("wanda", "task", "0.3").recipe(base, 7)
    assert made.pruning.model_dump() == base.pruning.model_dump() | {
        "method": "wanda", "sparsity": 0.3, "pattern": "unstructured",
        "fusion": base.pruning.fusion.model_dump() | {"mode": "task"},
    }  # fmt: skip
    assert made.data.seed == 7
    assert (made.artifact, made.training) == (base.artifact, base.training)
    dense = Variant("dense").recipe(base, 0)
    assert (dense.pruning.sparsity, dense.training.enabled) == (0, False)
