"""What in a chat template goes wrong in small engines, before a user finds out."""

from collections.abc import Iterable, Iterator

from edgeprune.data.template import ChatTemplate
from edgeprune.support.errors import InputError

# What llama.cpp's own engine knows (common/jinja of 2026); those on phones know no more.
_FUNCTIONS = {"raise_exception", "strftime_now", "range", "namespace", "dict", "loop"}
_FILTERS = {
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "indent", "int",
    "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "replace", "reverse", "safe", "select", "selectattr", "slice", "sort", "string", "sum", "title",
    "tojson", "trim", "upper", "wordcount",
}  # fmt: skip
_TALK = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]


def problems(template: ChatTemplate, ends: Iterable[int]) -> list[str]:
    """List what is wrong with a template, in words; empty if nothing is known to be.

    Args:
        template: the template.
        ends: tokens that end a generation.
    """
    return [*_unknown(template), *_endless(template, set(ends))]


def _unknown(template: ChatTemplate) -> Iterator[str]:
    """Find functions and filters that small engines do not have."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    source = template.tokenizer.get_chat_template()
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # only parsed
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        yield (
            f"The chat template uses syntax beyond Jinja2's own, which small engines may not read: "
            f"{error}."
        )
        return
    macros = {node.name for node in tree.find_all(nodes.Macro)}
    called = {node.node.name for node in tree.find_all(nodes.Call)
              if isinstance(node.node, nodes.Name)}  # fmt: skip
    filters = {node.name for node in tree.find_all(nodes.Filter)}
    for kind, names in (("function", called - _FUNCTIONS - macros), ("filter", filters - _FILTERS)):
        for name in sorted(names):
            yield (
                f"The chat template uses the {kind} '{name}', which small engines may not know: "
                "they would refuse the model or fall back to another template."
            )


def _endless(template: ChatTemplate, ends: set[int]) -> Iterator[str]:
    """Check that what closes the assistant's turn ends a generation."""
    try:
        ids, own = template.conversation(_TALK)
    except InputError as error:
        yield str(error)
        return
    last = next((i for i, mine in zip(reversed(ids), reversed(own), strict=True) if mine), None)
    if last not in ends:
        said = template.tokenizer.decode([last]) if last is not None else ""
        yield (
            f"The chat template closes the assistant's turn with {said!r}, which does not end a "
            "generation: answers run on until their most tokens. Name it as eos_token_id in "
            "generation_config.json."
        )
