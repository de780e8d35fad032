"""Open a checkpoint, wherever it comes from, as a local transformers folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from edgeprune.formats.weights import Weights, weight_files
from edgeprune.models import packaged
from edgeprune.models.hub import download
from edgeprune.support.errors import InputError, unknown
from edgeprune.support.files import cache_folder, remove_leftovers, sha256_file, sha256_json
from edgeprune.support.progress import Progress, Quiet

# Raised whenever a GGUF file would be converted to another folder than before.
_CONVERSION = 4
# Weight files whose loading can run code; never read.
_UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A causal language model in a local folder, in transformers' layout.

    Attributes:
        name: short name for messages and file names.
        source: what the user asked for.
        folder: transformers folder with ``config.json``, tokenizer files and safetensors.
        sha256: hash over all files the model is read from.
        gguf: the GGUF file the folder was converted from, if any.
    """

    name: str
    source: str
    folder: Path
    sha256: str
    gguf: Path | None = None

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files, in a fixed order."""
        return weight_files(self.folder)

    def weights(self) -> Weights:
        """The weights, tensor by tensor."""
        return Weights(self.weight_files)


def open_checkpoint(model: str, progress: Progress | None = None) -> Checkpoint:
    """Open a model by hub id, local folder, GGUF file or packaged name.

    This never runs code from the checkpoint and never reads pickles.

    Args:
        model: what to open.
        progress: receives conversion progress.

    Raises:
        UsageError: nothing of that name is known.
        InputError: the model exists but cannot be used.
        MachineError: its package is not installed.
    """
    kind, place = locate(model)
    if kind == "file":
        return _from_gguf(Path(place), model, progress or Quiet())
    if kind == "folder":
        return _from_folder(Path(place), Path(place).resolve().name, model)
    return _from_folder(download(model), model.rpartition("/")[2], model)


def artifact_path(text: str) -> Path:
    """Find what a runtime opens: a GGUF or ONNX file, or a transformers folder.

    Raises:
        InputError: there is no such file, folder or model.
        UsageError: no packaged model of that name.
    """
    path = Path(text).expanduser()
    if path.suffix not in {".gguf", ".onnx"}:
        return open_checkpoint(text).folder
    if not path.is_file():
        raise InputError(f"No such file: {path}.", "'edgeprune build' creates one.")
    return path


def locate(model: str) -> tuple[Literal["file", "folder", "hub"], str]:
    """Find what kind of model a name refers to, and its path or hub id, without opening it.

    A file is a GGUF one.

    Raises:
        UsageError: nothing of that name is known.
        InputError: a file that is not a model.
        MachineError: the package of a packaged model is not installed.
    """
    if model in packaged.PACKAGED:
        return "file", str(packaged.find(model))
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"No such GGUF file: {path}.")
        return "file", str(path)
    if path.is_dir():
        return "folder", str(path)
    if path.exists():
        raise InputError(
            f"{path} is neither a folder nor a .gguf file.",
            "Give the folder that holds config.json and the safetensors files.",
        )
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return "hub", model
    raise unknown(
        "model",
        model,
        packaged.PACKAGED,
        "Or give a hub id (owner/name), a folder or a .gguf file.",
    )


def _from_folder(folder: Path, name: str, source: str) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; expected a transformers checkpoint.")
    files = weight_files(folder)
    if not files:
        unsafe = [p.name for p in sorted(folder.iterdir()) if p.suffix in _UNSAFE_SUFFIXES]
        found = f"only {', '.join(unsafe)}, which can run code" if unsafe else "none"
        raise InputError(
            f"{folder}: expected weights as .safetensors, found {found}.",
            "Convert it with a tool you trust: save_pretrained(..., safe_serialization=True).",
        )
    if missing := [path.name for path in files if not path.is_file()]:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(files)} weight files: "
            f"{', '.join(missing[:3])}.",
            "Download the checkpoint again.",
        )
    Weights(files)  # headers are read and checked here, before any work
    hashed = {path.name: sha256_file(path) for path in _identity_files(folder)}
    return Checkpoint(name, source, folder, sha256_json(hashed))


def _identity_files(folder: Path) -> list[Path]:
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return weight_files(folder) + [folder / name for name in names if (folder / name).is_file()]


def _from_gguf(path: Path, source: str, progress: Progress) -> Checkpoint:
    from edgeprune.formats.gguf.file import open_gguf
    from edgeprune.models.from_gguf import convert

    digest = sha256_file(path)
    folder = cache_folder() / "models" / f"{digest[:16]}-{_CONVERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            remove_leftovers(folder.parent, f".{folder.name}.*")  # what a killed conversion left
            open_gguf(path)
            convert(path, folder, progress)
    name = source if source in packaged.PACKAGED else path.stem
    return Checkpoint(name, source, folder, digest, gguf=path.resolve())
