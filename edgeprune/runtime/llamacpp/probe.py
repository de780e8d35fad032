"""Test sparse weights in this llama.cpp on a tiny model, in a separate process.

The model has a block for each type, and a head that is its embedding, too. It is run twice, as
llama.cpp runs it and with its tensors packed; the logits have to agree. A crash of the probe
crashes nothing else.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtime import library
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama

_MODEL = Sizes(
    types=(*library.TYPES, "Q4_0:3", "Q4_0:2", "Q4_0:2+mask", "Q4_0:1+mask"),
    head_type="Q8_0",
    tied=True,
)
_TOKENS = 11
_SECONDS = 120
# Largest difference of logits, of their norm. Both sides round activations to 8 bits, llama.cpp
# their scales to 16 as well; a wrong weight or scale gives more than 1.
TOLERANCE = 0.02


def run() -> dict[str, Any]:
    """Probe in a child process.

    Returns:
        ``ok``, and ``difference`` of the logits as a share of their norm, or why it failed as
        ``reason``.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            capture_output=True, text=True, check=False, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return {"ok": False, "reason": f"the probe could not run: {error}"}
    if done.returncode:  # also where it ends badly after its verdict
        said = " ".join(done.stderr.split())[-200:]
        return {"ok": False, "reason": f"the probe exited with code {done.returncode}: {said}"}
    return json.loads(done.stdout.splitlines()[-1])


def _logits(api: Any, path: Path) -> np.ndarray:
    """Compute logits after a prompt and after one more token, (2, vocabulary)."""
    params = api.llama_model_default_params()
    params.load_mode, params.n_gpu_layers, params.no_host = api.LLAMA_LOAD_MODE_NONE, 0, True
    model = api.llama_model_load_from_file(str(path).encode(), params)
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 2, 2
    context = api.llama_init_from_model(model, settings)
    found = []
    for ids in (range(1, _TOKENS), [_TOKENS]):
        tokens = (api.llama_token * len(ids))(*ids)
        if api.llama_decode(context, api.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama.cpp cannot decode")
        found.append(
            np.ctypeslib.as_array(api.llama_get_logits(context), (_MODEL.vocabulary,)).copy()
        )
    api.llama_free(context)
    api.llama_model_free(model)
    return np.stack(found)


def main() -> None:
    """Run the probe in the child process, and print the verdict as JSON."""
    from llama_cpp import llama_cpp as api

    silence = api.llama_log_callback(lambda *_: None)  # lives as long as this process
    api.llama_log_set(silence, None)
    print(json.dumps(_compare()))


def _compare() -> dict[str, Any]:
    from llama_cpp import llama_cpp as api

    from edgeprune.formats.gguf.file import open_gguf
    from edgeprune.runtime.llamacpp import adapter

    api.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.gguf")
        write_random_llama(path, _MODEL, zeros=0.5)
        adapter.attach()
        adapter.release()
        stock = _logits(api, path)
        claimed = len(adapter.claim(open_gguf(path)))
        sparse = _logits(api, path)
        placed = adapter.placed(claimed)
    difference = float(np.linalg.norm(sparse - stock, axis=1).max() / np.linalg.norm(stock))
    if placed.tensors != placed.claimed or placed.failures or not placed.tensors:
        return {
            "ok": False,
            "reason": f"llama.cpp placed {placed.tensors} of {placed.claimed} tensors",
        }
    if not difference <= TOLERANCE:
        return {
            "ok": False,
            "reason": f"logits differ from llama.cpp's by {difference:.1%} of their norm",
        }
    return {"ok": True, "difference": difference, "tensors": placed.tensors}
