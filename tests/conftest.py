"""Shared fixtures: the real model once per session, tiny random models, real rows."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from edgeprune.models import Checkpoint, open_checkpoint
from exporters.base import Model, StorageRequest
from tests.exporting import export_gguf
from tests.no_amx import refuse

if TYPE_CHECKING:
    from edgeprune.data.streams import Stream
    from edgeprune.engine import PrunedCheckpoint

refuse()  # before torch or llama.cpp asks for it

hypothesis.settings.register_profile("shared-machine", deadline=None)  # time says nothing here
hypothesis.settings.load_profile("shared-machine")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def sparse_weights() -> None:
    """llama.cpp looks for buffer types before its first model, whichever test loads that."""
    from edgeprune.runtime import status

    status()


@pytest.fixture(scope="session")
def real_checkpoint() -> Checkpoint:
    """SmolLM2-135M-Instruct, from the package."""
    return open_checkpoint("smollm2-135m")


def dense_model(checkpoint: Checkpoint) -> Model:
    return Model(checkpoint.folder, checkpoint.weights(), gguf=checkpoint.gguf)


@pytest.fixture(scope="session")
def dense_f32(real_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model exported without any loss."""
    path = tmp_path_factory.mktemp("dense") / "dense-f32.gguf"
    export_gguf(dense_model(real_checkpoint), StorageRequest("f32"), path)
    return path


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


def make_tiny(tokenizer_from: Checkpoint, folder: Path, **changes: object) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    options = {
        "vocab_size": 49152,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    for parameter in model.parameters():  # large enough weights that logits differ clearly
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tokenizer_from.folder / name).read_bytes())
    return folder


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


def streams(samples: int, length: int = 32) -> "dict[str, Stream]":
    """Random tokens of both streams; every other one belongs to an answer."""
    import torch

    from edgeprune.data.streams import Stream

    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in ("general", "task"):
        tokens = torch.randint(10, 512, (samples, length), generator=generator)
        found[name] = Stream(tokens, tokens % 2 == 0)
    return found


@pytest.fixture(scope="session")
def pruned(
    real_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> "PrunedCheckpoint":
    """A tiny model with half its weights gone."""
    from edgeprune.engine import prune
    from edgeprune.plan.tensors import ModelPlan
    from edgeprune.pruning.matrix import Pruning
    from edgeprune.support.progress import Quiet

    folder = tmp_path_factory.mktemp("pruned")
    model = make_tiny(real_checkpoint, folder / "model", vocab_size=512)
    checkpoint = open_checkpoint(str(model))
    plan = ModelPlan({}, sparsity=0.5)
    return prune(checkpoint, streams(2), Pruning("wanda"), plan, folder / "work", Quiet(), "cpu")
