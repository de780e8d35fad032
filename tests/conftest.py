"""Shared fixtures: the real model once per session, tiny random models, real rows."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support.paths import SHARED_DATA
from tests.support.workers import take_own_cores

os.environ.setdefault("HF_HUB_OFFLINE", "1")
take_own_cores()  # before torch counts them

from edgeprune.models import Checkpoint, open_checkpoint
from tests.support.models import make_small, make_tiny
from tests.support.streams import streams

if TYPE_CHECKING:
    from edgeprune.engine import PrunedCheckpoint

hypothesis.settings.register_profile("shared-machine", deadline=None)  # time says nothing here
hypothesis.settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def real_checkpoint() -> Checkpoint:
    """SmolLM2-135M-Instruct, from the package."""
    return open_checkpoint("smollm2-135m")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The workplace's data sets; nothing of the product depends on them."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not on this machine: checks on its data sets were not run")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_folder(real_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama with SmolLM2's tokenizer, as a transformers folder."""
    return make_tiny(real_checkpoint, tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama with few words and no tokenizer."""
    return make_small(tmp_path_factory.mktemp("small") / "small-llama")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real multiple-choice rows from the packaged data, as a user's own file."""
    from edgeprune.data.sources import load_split
    from edgeprune.data.task import open_task

    split = load_split(open_task("mmlu_med"))
    path = tmp_path_factory.mktemp("rows") / "questions.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "question": row.fields["question"],
                    "choices": list(row.choices),
                    "answer": row.answer,
                }
            )
            + "\n"
            for row in split.calibration[:75] + split.evaluation[:75]
        )
    )
    return path


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks run in float32, to be compared with references."""
    import torch

    from edgeprune.engine import runner

    monkeypatch.setattr(runner, "compute_dtype", lambda _device: torch.float32)


@pytest.fixture(scope="session")
def pruned(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "PrunedCheckpoint":
    """A tiny model with half its weights gone."""
    from edgeprune.pruning.fusion import FusionRule
    from edgeprune.pruning.matrix import Pruning
    from tests.support.plans import prune_uniformly

    folder = tmp_path_factory.mktemp("pruned")
    checkpoint = open_checkpoint(str(small_folder))
    mixed = Pruning("wanda", FusionRule("mix"))
    return prune_uniformly(checkpoint, streams(2), mixed, folder, device="cpu")
