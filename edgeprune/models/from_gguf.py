"""Read GGUF files with transformers' own GGUF loader, and convert them to transformers folders."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.formats.weights import save_tensors
from edgeprune.models.gguf_tokenizer import mend
from edgeprune.models.library import transformers
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load, need
from edgeprune.support.files import atomic_folder
from edgeprune.support.progress import Progress

# What transformers raises at files it doesn't understand.
_FAILURES = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, OSError,
)  # fmt: skip


def convert(path: Path, folder: Path, progress: Progress) -> None:
    """Write ``folder`` from the GGUF file ``path``: float32 weights, config and tokenizer.

    Float32 because dequantised values need it: a Q4_1 weight is exact in no shorter type.

    Raises:
        InputError: transformers does not support the architecture, or misreads the file.
    """
    with progress.stage("open model", 3) as stage:
        with _reading(path) as (hf, source):
            tokenizer = hf.AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
            mend(tokenizer, open_gguf(path))
        stage.advance()
        model = read_model(path)
        stage.advance()
        del model.config.quantization_config  # the weights are plain float32 from here on
        with atomic_folder(folder) as temporary:
            save_tensors(temporary / "model.safetensors", _weights(model), {"format": "pt"})
            model.config.architectures = [type(model).__name__]  # other tools choose by it
            model.config.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        stage.advance()


def read_model(path: Path) -> Any:
    """Open a GGUF file's model in transformers, its weights dequantised to float32.

    Raises:
        InputError: as `convert`.
    """
    import torch

    with _reading(path) as (hf, source):
        return hf.AutoModelForCausalLM.from_pretrained(
            **source,
            config=_config(hf, path, source),
            dtype=torch.float32,
            trust_remote_code=False,
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """Give the library and its arguments for a file; say in one line what it can't read."""
    need("torch", "transformers", "accelerate")
    _refuse_rope_scaling(path)
    hf = transformers()
    loader: Any = load("transformers.modeling_gguf_pytorch_utils")
    own, loader.tqdm = loader.tqdm, lambda tensors, **_: tensors  # edgeprune shows progress
    try:
        yield hf, {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    except _FAILURES as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(
            f"transformers cannot read {path}: {reason}",
            "transformers' GGUF loader may not support the architecture. Give the original "
            "transformers folder instead.",
        ) from None
    finally:
        loader.tqdm = own


def _weights(model: Any) -> dict[str, Any]:
    """The state dictionary; a tied head is stored once, as the embedding, as hub models do."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors


def _config(hf: Any, path: Path, source: dict[str, str]) -> Any:
    """The configuration as transformers reads it, with the widths of a head that it overlooks."""
    config = hf.AutoConfig.from_pretrained(**source, trust_remote_code=False)
    file = open_gguf(path)
    prefix = file.get("general.architecture")
    width = file.get(f"{prefix}.attention.key_length")
    rotated = file.get(f"{prefix}.rope.dimension_count")
    whole = width or config.hidden_size // config.num_attention_heads
    if rotated and rotated != whole:
        config.rope_parameters["partial_rotary_factor"] = rotated / whole
    if width and hasattr(config, "head_dim"):
        config.head_dim = width
        if hasattr(config, "query_pre_attn_scalar"):  # llama.cpp scales attention by the width
            config.query_pre_attn_scalar = width
    return config


def _refuse_rope_scaling(path: Path) -> None:
    """Transformers' GGUF loader drops rope scaling without a word."""
    file = open_gguf(path)
    architecture = file.get("general.architecture", "")
    scaling = file.get(f"{architecture}.rope.scaling.type", "none")
    factors = [tensor.name for tensor in file.tensors if tensor.name.startswith("rope_")]
    if scaling != "none" or factors:
        raise InputError(
            f"{path} uses rope scaling ({scaling}), which transformers' GGUF loader drops.",
            "Give the original transformers folder instead.",
        )
