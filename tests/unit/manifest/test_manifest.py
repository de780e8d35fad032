"""The record of a build as a file: read as it was written, or refused with one message."""

import json

import pytest

from edgeprune.manifest import SCHEMA, read
from edgeprune.support.errors import InputError
from tests.support.manifests import sample_manifest


def test_what_is_written_is_read(tmp_path):
    manifest = sample_manifest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_json()))
    assert read(tmp_path) == manifest
    assert manifest.to_json()["schema"] == SCHEMA


def _without_schema(values):
    del values["schema"]


def _of_the_future(values):
    values["schema"] = 99


def _of_a_wrong_type(values):
    values["results"]["artifacts"]["dense"]["decode"]["median"] = "fast"


def _with_an_unknown_field(values):
    values["data"]["task"]["colour"] = "blue"


def _without_a_field(values):
    del values["training"]["finetune"]["task_share"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_schema, "has no schema number: it was written by an older edgeprune"),
        (_of_the_future, "has schema 99, but this edgeprune reads 3"),
        (_of_a_wrong_type, r"is damaged at results\.artifacts\.dense\.decode\.median: "),
        (_with_an_unknown_field, r"is damaged at data\.task\.colour: "),
        (_without_a_field, r"is damaged at training\.finetune\.task_share: "),
    ],
)
def test_an_old_foreign_or_damaged_manifest_is_refused(change, message, tmp_path):
    values = sample_manifest().to_json()
    change(values)
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message) as refused:
        read(tmp_path)
    assert "edgeprune build again" in refused.value.hint


@pytest.mark.parametrize("text", ["{", '{"schema": NaN}', ""])
def test_a_file_that_is_not_json_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="is damaged: it is not valid JSON"):
        read(tmp_path)


def test_a_folder_without_a_manifest_is_not_a_finished_build(tmp_path):
    with pytest.raises(InputError, match="is not a finished build: it has no manifest"):
        read(tmp_path)


def test_kept_weights_are_the_best_ones_on_their_grid():
    trained = sample_manifest().training.finetune
    assert trained.held_out_losses == (3.5, 3.0)  # 2.9 was before the grid
