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
    recipe = Recipe(task=str(rows_file))
    with pytest.raises(UsageError, match="did you mean wanda"):
        Variant("wandaa", "mix", "0.5").recipe(recipe, 0)
    with pytest.raises(UsageError, match="sparsity"):
        Variant("wanda", "mix", "half").recipe(recipe, 0)
