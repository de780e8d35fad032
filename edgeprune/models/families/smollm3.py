"""SmolLM 3: a Llama that leaves the rotation out of every fourth layer."""

from edgeprune.models.families.base import GATED, LLAMA_MATRICES, Config, Family, Gguf, Onnx

_EVERY = 4  # stands in llama.cpp's code


def _rotates(config: Config) -> list[bool]:
    every = config.get("no_rope_layer_interval", _EVERY)
    given = config.get("no_rope_layers")
    if given:
        return [bool(rotates) for rotates in given]
    return [(i + 1) % every != 0 for i in range(config["num_hidden_layers"])]


def _trap(config: Config) -> str | None:
    layers = range(config["num_hidden_layers"])
    if _rotates(config) != [(i + 1) % _EVERY != 0 for i in layers]:
        return "a rotary layout other than no rotation in every fourth layer"
    return None


FAMILY = Family(
    model_types=("smollm3",),
    feed_forward=GATED,
    tied=True,
    rotates=_rotates,
    gguf=Gguf("smollm3", permutes_rotary=True, trap=_trap),
    onnx=Onnx(LLAMA_MATRICES, genai="llama"),
)
