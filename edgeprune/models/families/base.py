"""Model families as data: facts that no weight file states.

Nothing here imports a model library: exporters read families without one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]  # config.json of a transformers folder


def head_dim(config: Config) -> int:
    """Width of an attention head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def every_layer_rotates(config: Config) -> list[bool]:
    """Say that every layer rotates queries and keys."""
    return [True] * config["num_hidden_layers"]


def no_trap(_config: Config) -> str | None:
    """Report no problem beyond what is checked for all architectures."""
    return None


@dataclass(frozen=True)
class FeedForwardNames:
    """Matrices of a feed-forward network with only elementwise functions between them.

    Attributes:
        makers: names, inside the network, of those whose rows are the hidden channels.
        reader: name of the matrix whose columns are the hidden channels.
    """

    makers: tuple[str, ...]
    reader: str


@dataclass(frozen=True)
class Norms:
    """Names of a block's norms.

    Attributes:
        attention: the norm before attention.
        feed_forward: the norm before the feed-forward network.
        after_attention: the norm after attention, before the residual sum; empty: none.
        after_feed_forward: the norm after the feed-forward network, before the residual sum; empty:
            none.
    """

    attention: str = "input_layernorm"
    feed_forward: str = "post_attention_layernorm"
    after_attention: str = ""
    after_feed_forward: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        found = (
            self.attention, self.after_attention, self.feed_forward, self.after_feed_forward
        )  # fmt: skip
        return tuple(name for name in found if name)


@dataclass(frozen=True)
class Gguf:
    """How llama.cpp runs a model family.

    Attributes:
        name: llama.cpp's name of the architecture; empty: no GGUF export.
        permutes_rotary: llama.cpp rotates neighbouring pairs, transformers rotates halves: rows
            of the query and key projections are interleaved to match.
        windows: whether llama.cpp knows sliding-window attention here. Where it doesn't, the
            context ends with the window: up to there it makes no difference.
        rope: kinds of rotary scaling that llama.cpp reads here.
        asks_for: metadata keys, without the prefix, that llama.cpp requires of this family only.
        trap: describes how llama.cpp would run a model differently from transformers
            because the fact is fixed in llama.cpp's code and not read from the file; None if it
            would not.
    """

    name: str = ""
    permutes_rotary: bool = False
    windows: bool = False
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    asks_for: frozenset[str] = frozenset()
    trap: Callable[[Config], str | None] = no_trap


@dataclass(frozen=True)
class Onnx:
    """The decoder graph of a model family.

    Attributes:
        matrices: names of a block's matrices; empty: the graph is traced instead of built.
        head_norms: names of the norms applied to each query and key head.
        norms: names of a block's norms.
        scales_embedding: whether embeddings are multiplied by the square root of their width.
        attention_width: key of the configuration with the width whose root divides attention;
            empty: a head's.
        genai: onnxruntime-genai's name of the architecture; empty: the same as transformers'.
    """

    matrices: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()
    norms: Norms = Norms()
    scales_embedding: bool = False
    attention_width: str = ""
    genai: str = ""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Name a block's modules that hold weights."""
        return (*self.matrices, *self.head_norms, *self.norms.names)


@dataclass(frozen=True)
class Family:
    """A family of models that share their code in transformers.

    Attributes:
        model_types: transformers' names for them.
        feed_forward: matrices whose hidden channels may be reordered; None: they may not.
        activation: of feed-forward networks, where the configuration names none; llama.cpp knows
            no other.
        norm_shift: what is added to the weights of norms, where transformers adds it in its code.
        tied: whether the embedding is the output head too, where the configuration doesn't say.
        rotates: for each layer, whether it rotates queries and keys.
        gguf: how llama.cpp runs the family.
        onnx: the family's decoder graph.
    """

    model_types: tuple[str, ...]
    feed_forward: FeedForwardNames | None = None
    activation: str = "silu"
    norm_shift: float = 0.0
    tied: bool = False
    rotates: Callable[[Config], list[bool]] = every_layer_rotates
    gguf: Gguf = Gguf()
    onnx: Onnx = Onnx()

    def is_tied(self, config: Config) -> bool:
        """Tell whether the model's embedding is also its output head."""
        return bool(config.get("tie_word_embeddings", self.tied))

    def activation_of(self, config: Config) -> str:
        """Return the activation of a model's feed-forward networks."""
        named = config.get("hidden_activation") or config.get("hidden_act")
        return str(named or self.activation)


# What most families share.
GATED = FeedForwardNames(("gate_proj", "up_proj"), "down_proj")
LLAMA_MATRICES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
