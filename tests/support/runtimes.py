"""Fixtures of tests that load llama.cpp or run the real model."""

from pathlib import Path

import pytest

from edgeprune import Recipe
from edgeprune.engine import Pruning
from edgeprune.models import Checkpoint, open_checkpoint
from exporters.base import Model, StorageRequest
from tests.support.exporting import dense_model, export_gguf
from tests.support.plans import prune_uniformly
from tests.support.recipes import QUICK
from tests.support.streams import streams_of


@pytest.fixture(scope="session", autouse=True)
def sparse_weights() -> None:
    """llama.cpp looks for buffer types before its first model, whichever test loads that."""
    from edgeprune.runtime import status

    status()


@pytest.fixture(scope="session")
def dense_f32(real_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model exported without any loss."""
    path = tmp_path_factory.mktemp("dense") / "dense-f32.gguf"
    export_gguf(dense_model(real_checkpoint), StorageRequest("f32"), path)
    return path


@pytest.fixture(scope="session")
def pruned_tiny(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny Llama with half its weights gone, as an exporter sees it."""
    checkpoint = open_checkpoint(str(tiny_folder))
    folder = tmp_path_factory.mktemp("pruned-tiny")
    result = prune_uniformly(checkpoint, streams_of(), Pruning(), folder)
    names = frozenset(record.name for record in result.records)
    return Model(checkpoint.folder, result.weights(), names)


@pytest.fixture(scope="session")
def tiny_recipe(tiny_folder: Path, rows_file: Path) -> Recipe:
    """A build of seconds, for GGUF."""
    return Recipe.of(QUICK, model=str(tiny_folder), task=str(rows_file))
