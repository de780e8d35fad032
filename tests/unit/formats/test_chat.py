"""Chat templates as text: with functions of their own, and without."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.formats.chat import NO_CALL, ChatFormat, as_call, call_in
from edgeprune.support.errors import InputError

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITH_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "ring", "parameters": {"type": "object"}}}]
ASKED = [{"role": "user", "content": "Ring Ann"}]
CALL = as_call("ring", {"who": "Ann"})


def test_a_template_without_functions_has_them_in_the_system_message():
    form = ChatFormat(PLAIN, {})
    assert not form.knows_tools
    text = form.text(ASKED, asks=True, tools=TOOLS)
    assert text.startswith("<system>Functions:\n")
    assert json.dumps(TOOLS[0]["function"]) in text
    assert NO_CALL in text
    assert text.endswith("<user>Ring Ann</s><assistant>")
    ours = [{"role": "system", "content": "You are a phone."}, *ASKED]
    assert form.text(ours, tools=TOOLS).startswith("<system>You are a phone.\n\nFunctions:")
    assert form.text(ASKED) == "<user>Ring Ann</s>"
    reply = form.reply(ASKED, CALL, TOOLS)
    assert reply == '{"name": "ring", "arguments": {"who": "Ann"}}</s>'
    assert form.around_call == ("", "")


def test_a_template_with_functions_writes_them_its_own_way():
    form = ChatFormat(WITH_TOOLS, {})
    assert form.knows_tools
    assert form.text(ASKED, tools=TOOLS) == "[ring]<user>Ring Ann</s>"
    assert form.reply(ASKED, CALL).startswith('<call>{"name": "ring"')
    assert form.around_call == ("<call>", "</call>")


def test_a_template_whose_calls_are_not_json_has_nothing_around_them():
    source = WITH_TOOLS.replace("{{ c.function | tojson }}", "{{ c.function.name }}()")
    assert ChatFormat(source, {}).around_call is None


def test_a_failing_template_is_named():
    with pytest.raises(InputError, match=r"chat template failed on 1 messages: no system"):
        ChatFormat("{{ raise_exception('no system') }}", {}).text(ASKED)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"name": "ring", "arguments": {"who": "Ann"}}', {"who": "Ann"}),
        ('Sure: <call>{"name": "ring", "parameters": {"n": 1}}</call>', {"n": 1}),
        ('{"name": "ring", "arguments": "{\\"n\\": 2}"}', {"n": 2}),
        ('{ {"a": 1} {"name": "ring", "arguments": {}}', {}),
        ('{"name": "ring"}', None),
        ('{"name": "ring", "arguments": [1]}', None),
        ('{"name": "ring", "arguments": {"who": "Ann"', None),
        (NO_CALL, None),
    ],
)
def test_calls_are_found(text, found):
    expected = None if found is None else {"name": "ring", "arguments": found}
    assert call_in(text) == expected


@given(
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)),
)
def test_whatever_stands_around_a_call_it_is_found(around, arguments):
    if "{" in around:
        return
    text = json.dumps({"name": "f", "arguments": arguments})
    assert call_in(around + text + around) == {"name": "f", "arguments": arguments}
