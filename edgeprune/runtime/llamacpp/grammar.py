"""Grammars by which llama.cpp writes nothing but calls of an app's functions."""

import ctypes
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeprune.formats.chat import NO_CALL, ChatFormat, Function
from edgeprune.support.errors import InputError
from edgeprune.support.extras import load


def call_grammar(functions: Sequence[Function], form: ChatFormat, must: bool = False) -> str:
    """Write a grammar (GBNF) of one call of a function, or of the words that none fits.

    Args:
        functions: in OpenAI's form, with JSON schemas of their parameters.
        form: the model's chat template, which may put something around a call.
        must: whether nothing but a call is allowed; there are functions then.

    Raises:
        InputError: the template does not write calls as JSON, or a schema can't be converted.
    """
    around = form.around_call
    if around is None:
        raise InputError(
            "The model's chat template does not write calls as JSON objects, so there is no "
            "grammar for them.",
            "Evaluate without a grammar.",
        )
    one = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
        }
        for tool in functions
    ]
    convert = load("llama_cpp.llama_grammar").json_schema_to_gbnf
    try:
        rules = str(convert(json.dumps({"oneOf": one}))) if one else ""
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"A function's parameters can't be made a grammar: {error}.") from None
    before, after = map(json.dumps, around)
    said = [f"{before} call {after}"] * bool(one) + [json.dumps(NO_CALL)] * (not must)
    lines = [line.replace("root ::=", "call ::=", 1) for line in rules.splitlines()]
    return "\n".join([*lines, f"root ::= {' | '.join(said)}"])


_FEW = 64  # of the most likely tokens, before all


class Grammar:
    """A grammar at work on one text.

    Args:
        vocab: llama.cpp's vocabulary.
        rules: as of `call_grammar`.

    Raises:
        RuntimeError: llama.cpp rejects the rules.
    """

    def __init__(self, vocab: Any, rules: str):
        self._api = load("llama_cpp.llama_cpp")
        self._sampler = self._api.llama_sampler_init_grammar(vocab, rules.encode(), b"root")
        if not self._sampler:
            raise RuntimeError("llama.cpp rejects the grammar of the functions")

    def choose(self, logits: Any) -> int:
        """Choose the most likely token that the rules allow, and go on behind it."""
        most = len(logits)
        for count in (1, min(_FEW, most), most):  # a vocabulary takes a tenth of a second
            tokens = np.argpartition(logits, most - count)[most - count :]
            if (token := self._allowed(tokens, logits)) is not None:
                self._api.llama_sampler_accept(self._sampler, token)
                return token
        raise RuntimeError("the grammar of the functions allows no token")

    def _allowed(self, tokens: Any, logits: Any) -> int | None:
        """Return the most likely of some tokens that is allowed; None if none is."""
        api = self._api
        rows = np.zeros(len(tokens), [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        rows["id"], rows["logit"] = tokens, logits[tokens]
        data = rows.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        array = api.llama_token_data_array(data, len(rows), -1, False)
        api.llama_sampler_apply(self._sampler, ctypes.byref(array))
        place = int(rows["logit"].argmax())
        return int(rows["id"][place]) if np.isfinite(rows["logit"][place]) else None

    def __del__(self) -> None:
        if getattr(self, "_sampler", None):
            self._api.llama_sampler_free(self._sampler)
