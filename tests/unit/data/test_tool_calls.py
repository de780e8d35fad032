"""Rows that ask for calls of functions."""

import json

import pytest

from edgeprune.data.conversations import make_conversation
from edgeprune.data.loading import load_data
from edgeprune.data.render import Renderer
from edgeprune.data.rows import make_row
from edgeprune.data.sources import load_split
from edgeprune.data.task import open_task
from edgeprune.data.tool_calls import fields_of, joined, reply
from edgeprune.formats.chat import NO_CALL
from edgeprune.pipeline.streams import _with_refusals
from edgeprune.support.errors import InputError
from runtime_tests.calls import judge_call

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "ring",
            "parameters": {
                "type": "object",
                "properties": {"who": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["who"],
            },
        },
    }
]
ASKED = [{"role": "user", "content": "Ring Ann"}]
CALLS = [{"name": "ring", "arguments": {"who": ["Ann"], "n": ["", 1]}}]


@pytest.mark.parametrize("name", ["app_actions", "tool_calls"])
def test_the_shipped_rows_are_right_by_their_own_calls(name, monkeypatch):
    monkeypatch.delenv("EDGEPRUNE_DATA", raising=False)
    split = load_split(open_task(name))
    rows = [*split.calibration, *split.evaluation]
    assert len(rows) == {"app_actions": 552, "tool_calls": 1629}[name]
    for row in rows:
        judged = judge_call(row.answers[0], row.fields["calls"], row.fields["tools"])
        assert judged.exact, row.id


def test_what_may_be_left_out_is_and_values_inside_are_chosen():
    fields, text = fields_of(ASKED, TOOLS, CALLS, "here")
    assert fields["question"] == "Ring Ann"
    assert json.loads(text) == {"name": "ring", "arguments": {"who": "Ann"}}
    deep = [{"name": "ring", "arguments": {"who": [{"first": ["Ann"], "last": [""]}, ""]}}]
    assert reply(deep)["tool_calls"][0]["function"]["arguments"] == {"who": {"first": "Ann"}}
    assert fields_of(ASKED, TOOLS, [], "here")[1] == NO_CALL


@pytest.mark.parametrize(
    "broken",
    [
        {"messages": []},
        {"messages": "Ring Ann"},
        {"tools": [{"name": "ring"}]},
        {"calls": ["ring"]},
        {"calls": [*CALLS, *CALLS]},
        {"calls": [{"name": "sing", "arguments": {}}]},
    ],
)
def test_a_broken_row_is_named(broken):
    task = open_task("app_actions")
    raw = {"messages": ASKED, "tools": TOOLS, "calls": CALLS} | broken
    with pytest.raises(InputError, match=r"rows\.jsonl, row 3"):
        make_row(raw, task, {}, "rows.jsonl, row 3")


def test_functions_are_listed_or_learnt():
    raw = {"messages": ASKED, "tools": TOOLS, "calls": CALLS}
    learnt, listed = open_task("app_actions"), open_task("app_actions_listed")
    short, long = (Renderer(t).turn(make_row(raw, t, {}, "here")) for t in (learnt, listed))
    assert short.tools == []
    assert short.messages == [{"role": "system", "content": learnt.system}, *ASKED]
    assert long.tools == TOOLS
    plain = [Renderer(t).prompt(make_row(raw, t, {}, "here")) for t in (learnt, listed)]
    assert plain[0] == "Request: Ring Ann\nCall:"
    assert '"name": "ring"' in plain[1]


def test_functions_of_rows_are_joined():
    other = json.loads(json.dumps(TOOLS))
    of = other[0]["function"]["parameters"]
    of["properties"] = {"who": {"type": "string", "enum": ["Ann"]}, "at": {"type": "string"}}
    of["required"] = ["who", "at"]
    (found,) = joined([TOOLS, other])
    assert set(found["function"]["parameters"]["properties"]) == {"who", "n", "at"}
    assert found["function"]["parameters"]["required"] == ["who"]
    assert "enum" not in found["function"]["parameters"]["properties"]["who"]


def test_an_app_that_learns_its_functions_learns_what_they_are_not_for(tmp_path):
    """Questions of conversations, but for those that are the task's own; a tenth at most."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"Ring number {n}"}],
            "tools": [{"type": "function", "function": {"name": "ring"}}],
            "calls": [{"name": "ring", "arguments": {"who": [str(n)]}}],
        }
        for n in range(80)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for tools in ("learnt", "listed"):
        (tmp_path / f"{tools}.yaml").write_text(
            f"name: t\nkind: tool_call\ntools: {tools}\n"
            "sources: [{kind: local, calibration: r.jsonl, evaluation: r.jsonl}]\n"
        )
        data = load_data(str(tmp_path / f"{tools}.yaml"), "boolq_passages", 5, 512)
        known = data.task.split.calibration
        asked = [known[0].fields["question"], *(f"Why is the sky {n}?" for n in range(30))]
        talks = [make_conversation([{"role": "user", "content": text}]) for text in asked]
        made = _with_refusals(data, talks).task.split.calibration[len(known) :]
        found[tools] = (len(known), [row.fields["question"] for row in made])
        for row in made:
            turn = data.task.renderer.turn(row)
            assert turn.reply["content"] == NO_CALL
            assert not row.fields["calls"]
    count, questions = found["learnt"]
    assert len(questions) == round(count / 10)
    assert set(questions) <= {f"Why is the sky {n}?" for n in range(30)}
    assert found["listed"][1] == []
