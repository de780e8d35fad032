"""What a family of models is: facts that no weight file states, as data.

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
    """For each layer, whether it rotates queries and keys: all do."""
    return [True] * config["num_hidden_layers"]


def no_trap(_config: Config) -> str | None:
    """Nothing beyond what all architectures are checked for."""
    return None


@dataclass(frozen=True)
class FeedForwardNames:
    """Matrices of a feed-forward network with nothing but elementwise functions between them.

    Attributes:
        makers: names, inside the network, of those whose rows are the hidden channels.
        reader: name of the one whose columns they are.
    """

    makers: tuple[str, ...]
    reader: str


@dataclass(frozen=True)
class Norms:
    """Names of a block's norms.

    Attributes:
        attention: before attention.
        feed_forward: before the feed-forward network.
        after_attention: behind attention, before the sum; empty: none.
        after_feed_forward: behind the feed-forward network, before the sum; empty: none.
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
    """How llama.cpp runs a family.

    Attributes:
        name: llama.cpp's name for it; empty: it is not exported to GGUF.
        permutes_rotary: llama.cpp rotates neighbouring pairs, transformers rotates halves: rows
            of the query and key projections are interleaved to match.
        windows: whether llama.cpp knows sliding-window attention here. Where it doesn't, the
            context ends with the window: up to there it makes no difference.
        rope: kinds of rotary scaling that llama.cpp reads here.
        asks_for: keys, without the prefix, that llama.cpp asks for where others do without.
        trap: what is wrong with a model that llama.cpp would run otherwise than transformers,
            because llama.cpp keeps the fact in its code and not in the file; None: nothing.
    """

    name: str = ""
    permutes_rotary: bool = False
    windows: bool = False
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    asks_for: frozenset[str] = frozenset()
    trap: Callable[[Config], str | None] = no_trap


@dataclass(frozen=True)
class Onnx:
    """The graph of a family's decoder.

    Attributes:
        matrices: of a block, by their names in it; empty: the graph is not built but traced.
        head_norms: norms of each query and key head by itself, by their names in a block.
        norms: of a block.
        scales_embedding: whether embeddings are multiplied by the square root of their width.
        attention_width: key of the configuration with the width whose root divides attention;
            empty: a head's.
        genai: what onnxruntime-genai calls such models; empty: as transformers does.
    """

    matrices: tuple[str, ...] = ()
    head_norms: tuple[str, ...] = ()
    norms: Norms = Norms()
    scales_embedding: bool = False
    attention_width: str = ""
    genai: str = ""

    @property
    def tensors(self) -> tuple[str, ...]:
        """What holds weights in a block."""
        return (*self.matrices, *self.head_norms, *self.norms.names)


@dataclass(frozen=True)
class Family:
    """Models that share their code.

    Attributes:
        model_types: transformers' names for them.
        feed_forward: where the hidden channels are whose order is free; None: it isn't free.
        activation: of feed-forward networks, where the configuration names none; llama.cpp knows
            no other.
        norm_shift: what is added to the weights of norms, where transformers adds it in its code.
        tied: whether the embedding is the output head too, where the configuration doesn't say.
        rotates: for each layer, whether it rotates queries and keys.
        gguf: how llama.cpp runs them.
        onnx: what their graph is.
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
        """Whether the embedding of a model is its output head, too."""
        return bool(config.get("tie_word_embeddings", self.tied))

    def activation_of(self, config: Config) -> str:
        """What a model's feed-forward networks apply between their matrices."""
        named = config.get("hidden_activation") or config.get("hidden_act")
        return str(named or self.activation)


# What most families share.
GATED = FeedForwardNames(("gate_proj", "up_proj"), "down_proj")
LLAMA_MATRICES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
