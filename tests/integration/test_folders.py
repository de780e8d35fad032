"""A build folder is its recipe's alone."""

import pytest

from edgeprune import Recipe, build
from edgeprune.support.errors import UsageError
from tests.support.recipes import QUICK


def test_another_recipes_build_is_not_overwritten_unasked(tiny_folder, rows_file, tmp_path):
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file), method="magnitude")
    made = build(recipe, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    other = recipe.changed({"artifact.type": "f16"})
    with pytest.raises(
        UsageError, match=r"another recipe: artifact.type q8_0 there, f16 here\."
    ) as refused:
        build(other, tmp_path)
    assert "--replace" in str(refused.value.hint)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    measured = recipe.changed(
        {
            "measurement.eval_rows": 6,
            "measurement.threads": 1,
            "gates.min_decode_speed": 1e-6,
            "measurement.processes": 2,
        }
    )
    again = build(measured, tmp_path)
    assert again.manifest.artifact.tensors == made.manifest.artifact.tensors
    replaced = build(other, tmp_path, replace=True)
    assert {t.type for t in replaced.manifest.artifact.tensors} == {"F16", "F32"}
    with pytest.raises(UsageError, match="f16 there, q8_0 here"):
        build(recipe, tmp_path)
