"""Calls that models write, beside the right ones."""

import json

import pytest

from edgeprune.formats.chat import Turn
from runtime_tests.calls import Chat, figures, judge_call

FUNCTIONS = [{"type": "function", "function": {"name": name}} for name in ("ring", "play")]
RIGHT = [{"name": "ring", "arguments": {"who": ["Ann", "Ann Lee"], "at": ["18:30"], "n": ["", 1]}}]


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("text", "called", "function", "exact"),
    [
        (call("ring", who="Ann", at="18:30"), True, True, True),
        (call("ring", who="ann lee", at="18 : 30.", n=1), True, True, True),
        (call("ring", who="Ann", at="18:30", n=2), True, True, False),
        (call("ring", who="Ann"), True, True, False),
        (call("ring", who="Ann", at="18:30", x=1), True, True, False),
        (call("play", who="Ann", at="18:30"), True, False, False),
        (call("sing"), False, False, False),
        ("I am sorry.", False, False, False),
    ],
)
def test_a_call_is_right_by_name_and_arguments(text, called, function, exact):
    found = judge_call(text, RIGHT, FUNCTIONS)
    assert (found.called, found.function, found.exact) == (called, function, exact)


@pytest.mark.parametrize(
    ("given", "right", "same"),
    [
        ("1", "[1, 1.0]", True),
        ("true", "[1]", False),
        ("[1, 2]", "[[1, 2]]", True),
        ("[1]", "[[1, 2]]", False),
        ('{"a": "X"}', '[{"a": ["x"], "b": [""]}]', True),
        ('{"a": "y"}', '[{"a": ["x"]}]', False),
        ("null", "[null]", True),
        ("2.50", "[2.5]", True),
    ],
)
def test_values_are_compared_as_values(given, right, same):
    calls = [{"name": "play", "arguments": {"v": json.loads(right)}}]
    text = f'{{"name": "play", "arguments": {{"v": {given}}}}}'
    assert judge_call(text, calls, FUNCTIONS).exact == same


def test_shares_count_rows_where_no_function_fits():
    chats = [
        Chat(Turn([], {}, []), functions=FUNCTIONS, calls=calls) for calls in (RIGHT, RIGHT, [], [])
    ]
    wrong = '{"name": "play", "arguments": {}}'
    found = figures(chats, [wrong, "What?", "No function fits.", wrong])
    values = {name: share and (share["correct"], share["rows"]) for name, share in found.items()}
    assert values == {"called": (1, 2), "function": (1, 4), "exact": (1, 4), "refused": (1, 2)}
    assert figures(chats[:2], [wrong, wrong])["refused"] is None
