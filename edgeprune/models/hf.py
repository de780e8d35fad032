"""transformers, quiet, and never running code of a checkpoint."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeprune.errors import InputError
from edgeprune.extras import load

if TYPE_CHECKING:
    from edgeprune.models.checkpoint import Checkpoint


def transformers() -> ModuleType:
    """The transformers library without bars and warnings of its own: edgeprune shows progress."""
    library = load("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def load_model(checkpoint: "Checkpoint", dtype: Any = "auto") -> Any:
    """The whole model in evaluation mode, in its stored type unless told otherwise.

    Raises:
        InputError: not an architecture of transformers, or damaged files.
    """
    return _open("AutoModelForCausalLM", checkpoint, dtype=dtype, use_safetensors=True).eval()


def load_tokenizer(checkpoint: "Checkpoint") -> Any:
    """The checkpoint's tokenizer."""
    return _open("AutoTokenizer", checkpoint)


def _open(kind: str, checkpoint: "Checkpoint", **options: Any) -> Any:
    try:
        return getattr(transformers(), kind).from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True, **options
        )
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(
            f"transformers can't open {checkpoint.source}: {reason}",
            "Only architectures inside transformers are supported; code of a checkpoint is never "
            "run.",
        ) from None
