"""Sparse kernels and packed files for unmodified llama.cpp and onnxruntime, in one process.

::

    from edgeprune.runtime import enable

    enable()
    llama = llama_cpp.Llama("model.gguf")  # packed or plain; sparse weights run as such

    from edgeprune.runtime.onnxruntime.loading import open_session

    session = open_session(Path("model.onnx"), onnxruntime.SessionOptions()).session  # likewise
"""

from edgeprune.runtime.llamacpp.availability import Status, status
from edgeprune.runtime.llamacpp.loading import enable, load_model

__all__ = ["Status", "enable", "load_model", "status"]
