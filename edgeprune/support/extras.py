"""Optional libraries: a clear message if an extra is missing."""

import importlib
import importlib.util
from types import ModuleType

from edgeprune.support.errors import MachineError

# module -> the extra of pyproject.toml that installs it
_EXTRA_OF = {
    "torch": "prune",
    "transformers": "prune",
    "accelerate": "prune",
    "huggingface_hub": "prune",
    "tokenizers": "prune",
    "llama_cpp": "gguf",
    "httpx": "programs",
    "peft": "adapters",
    "ray": "ray",
    "fastapi": "serve",
    "sse_starlette": "serve",
    "uvicorn": "serve",
    "datasets": "hub",
    "scipy": "eval",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "matplotlib": "report",
    "adjustText": "compare",
}


def need(*modules: str) -> None:
    """Raise `MachineError` naming the extra if one of the modules is not installed.

    Looks without importing, so that a command can check everything before it starts.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({_EXTRA_OF[name] for name in missing}))
        raise MachineError(
            f"Not installed: {', '.join(missing)}.", f"pip install 'edgeprune[{extras}]'"
        )


def load(module: str) -> ModuleType:
    """Import a module of an extra, or raise `MachineError` that names the extra."""
    need(module.partition(".")[0])
    return importlib.import_module(module)
