"""From a checkpoint to a verified transformers folder."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.formats.metadata import SparsityMetadata
from edgeprune.formats.safetensors import METADATA, read_folder
from edgeprune.planning.patterns import UNSTRUCTURED, parse
from edgeprune.planning.tensors import ModelPlan, TensorPlan
from edgeprune.support.errors import CheckFailed, InputError
from edgeprune.support.extras import load
from edgeprune.support.files import atomic_folder, write_json, write_text
from edgeprune.support.progress import Stage
from exporters.base import Artifact, Model, StorageRequest
from exporters.beside import TOKENIZER_FILES, copy_files
from exporters.config import load_config
from exporters.transformers.plan import lay_out
from exporters.transformers.verify import verify
from exporters.transformers.write import DTYPES, write_weights

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TAKEN_ALONG = (*TOKENIZER_FILES, "tokenizer.model", "chat_template.json", "generation_config.json")


def plan(model: Model, wanted: StorageRequest) -> "FolderPlan":
    """Lay a folder out; refuses a model that transformers wouldn't open again.

    Raises:
        InputError: transformers doesn't know the architecture, or there is no tokenizer.
        UsageError: a type is asked for tensors that are not there.
    """
    config = load_config(model.folder)
    tied = bool(getattr(_opened(model.folder), "tie_word_embeddings", False))
    if not any((model.folder / name).is_file() for name in _TOKENIZERS):
        raise InputError(f"{model.folder} holds no tokenizer.", "Save it beside the weights.")
    return FolderPlan(config, wanted, lay_out(model, wanted, tied))


@dataclass(frozen=True)
class FolderPlan:
    """How a model stands in a folder; see `exporters.base.FilePlan`.

    Attributes:
        config: the model's configuration.
        wanted: how weights are stored.
        tensors: a row each.
    """

    config: dict[str, Any]
    wanted: StorageRequest
    tensors: list[TensorPlan]

    @property
    def steps(self) -> int:
        """Each tensor is written, then verified."""
        return 2 * len(self.tensors)

    def export(
        self,
        model: Model,
        plan: ModelPlan,
        path: Path,
        metadata: SparsityMetadata | None,
        quantized_by: str,
        stage: Stage,
    ) -> Artifact:
        """See `exporters.base.FilePlan.export`.

        What is known of the zeros stands in `edgeprune.formats.safetensors.METADATA`, a file of its
        own and no key of ``config.json``: that one outlives training that fills the zeros again.

        Raises:
            CheckFailed: zeros were lost, or the folder is not what was planned.
        """
        tensors = [plan.tensors[row.name] for row in self.tensors]
        if left_out := model.pruned - {row.name for row in tensors}:
            raise CheckFailed(f"Pruned tensors have no place in the folder: {sorted(left_out)}.")
        with atomic_folder(path) as folder:
            write_weights(folder, model.weights, tensors, quantized_by, stage.advance)
            copy_files(_TAKEN_ALONG, model.folder, folder)
            write_json(folder / "config.json", self._config())
            pattern = parse(metadata.pattern) if metadata else UNSTRUCTURED
            facts = verify(folder, model, tensors, stage.advance, pattern)
            if metadata:
                counted = {fact.name: fact.nonzeros for fact in facts if fact.pruned}
                metadata = replace(metadata, nonzeros=counted)
                write_text(folder / METADATA, metadata.to_json())
            if read_folder(folder) != metadata:
                raise CheckFailed("The metadata that was written reads as something else.")
            _opened(folder)
            if path.is_dir():  # of an earlier export; a folder can't be renamed over it
                shutil.rmtree(path)
        files = tuple(sorted(file for file in path.iterdir() if file.is_file()))
        return Artifact(path, facts, metadata, files)

    def _config(self) -> dict[str, Any]:
        """The checkpoint's, with the type that weights have now."""
        key = "torch_dtype" if "torch_dtype" in self.config else "dtype"
        name = str(DTYPES[self.wanted.type.upper()]).removeprefix("torch.")
        return self.config | {key: name}


def _opened(folder: Path) -> Any:
    """Transformers' own reading of a configuration.

    Raises:
        InputError: it refuses.
    """
    try:
        return load("transformers").AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise InputError(f"transformers can't read {folder / 'config.json'}: {reason}") from None
