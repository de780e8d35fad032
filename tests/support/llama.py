"""llama.cpp's own interface, stock and with sparse weights."""

import numpy as np
from llama_cpp import llama_cpp as api

from edgeprune.runtime import library, load_model
from edgeprune.runtime.llamacpp.random_model import Sizes

SIZES = Sizes((*library.TYPES, "Q4_0:3", "Q4_0:2", "Q4_0:2+mask", "Q4_0:1+mask"))


def stock(path):
    params = api.llama_model_default_params()
    params.load_mode = api.LLAMA_LOAD_MODE_NONE
    return api.llama_model_load_from_file(str(path).encode(), params)


def sparse(path):
    loaded = load_model(path, api.llama_model_default_params())
    assert loaded.model
    return loaded


def logits(model, batches, threads=2, lora=None):
    """Logits of the last token of each batch, (batches, vocabulary)."""
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch = 512, 512, 512
    settings.n_threads = settings.n_threads_batch = threads
    context = api.llama_init_from_model(model, settings)
    if lora:
        adapters = (api.llama_adapter_lora_p_ctypes * 1)(lora)
        scales = (api.ctypes.c_float * 1)(1.0)
        assert api.llama_set_adapters_lora(context, adapters, 1, scales) == 0
    found, position = [], 0
    for size in batches:
        tokens = (api.llama_token * size)(*((7 * (position + i)) % 251 for i in range(size)))
        assert api.llama_decode(context, api.llama_batch_get_one(tokens, size)) == 0
        row = np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (SIZES.vocabulary,))
        found.append(row.copy())
        position += size
    api.llama_free(context)
    return np.stack(found)
