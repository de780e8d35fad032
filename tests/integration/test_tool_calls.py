"""Calls of functions: through the chat template, in a grammar, from rows to the report."""

import json

import pytest

from edgeprune import Recipe, build, evaluate
from edgeprune.data.loading import load_data
from edgeprune.data.streams import pack
from edgeprune.formats.chat import NO_CALL, call_in
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_tokenizer
from edgeprune.pipeline.measure import measure_plan
from edgeprune.support.progress import Quiet
from exporters.base import StorageRequest
from runtime_tests.calls import judge_call
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from runtime_tests.runners.transformers import Transformers
from tests.support.exporting import dense_model, export_gguf, export_onnx
from tests.support.recipes import QUICK

LAMPS = ["kitchen", "hall", "attic"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Turn a lamp {name.partition('_')[2]}.",
            "parameters": {
                "type": "object",
                "properties": {"lamp": {"type": "string", "enum": LAMPS}},
                "required": ["lamp"],
            },
        },
    }
    for name in ("turn_on", "turn_off")
]


def _row(number):
    lamp, name = LAMPS[number % 3], TOOLS[number % 2]["function"]["name"]
    words = " ".join(["please"] * (number % 7))
    asked = f"{name.replace('_', ' ')} the lamp number {number} in the {lamp} {words}"
    calls = [{"name": name, "arguments": {"lamp": [lamp]}}] if number % 5 else []
    return {"messages": [{"role": "user", "content": asked}], "tools": TOOLS, "calls": calls}


@pytest.fixture(scope="module")
def calls_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "lamps.jsonl"
    path.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(150)))
    return path


@pytest.fixture(scope="module")
def items(calls_file):
    data = load_data(str(calls_file), "boolq_passages", 6, 512)
    return measure_plan(Recipe.of(task=str(calls_file)), data).items


@pytest.fixture(scope="module")
def runners(tiny_folder, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("files"), dense_model(open_checkpoint(str(tiny_folder)))
    export_gguf(model, StorageRequest(type="f32"), folder / "model.gguf")
    export_onnx(model, StorageRequest(type="fp32"), folder / "model.onnx")
    return [
        LlamaCpp(folder / "model.gguf", 2),
        OnnxRuntime(folder / "model.onnx", 2),
        Transformers(tiny_folder, 2),
    ]


def test_runtimes_read_the_same_prompt_in_their_own_template(items, runners):
    requests = [item.request() for item in items]
    scores = [runner.score(requests) for runner in runners]
    replies = [runner.reply(requests, 8) for runner in runners]
    for mine, first in zip(scores[1:], scores[:1] * 2, strict=True):
        for a, b in zip(mine, first, strict=True):
            assert a[0]["tokens"] == b[0]["tokens"]
            assert a[0]["logprob"] == pytest.approx(b[0]["logprob"], rel=1e-3)
    sizes = [[one["prompt_tokens"] for one in of] for of in replies]
    assert sizes[0] == sizes[1] == sizes[2]
    same = [a["text"] == b["text"] for a, b in zip(replies[0], replies[1], strict=True)]
    assert sum(same) >= len(same) - 1  # random weights come near to ties


def test_a_task_learns_what_its_prompts_are_measured_with(calls_file, tiny_folder, items, runners):
    """The stream's tokens are those of a prompt and its right reply."""
    tokenizer = load_tokenizer(open_checkpoint(str(tiny_folder)))
    data = load_data(str(calls_file), "boolq_passages", 6, 512)
    stream = pack(data.task.renderer, data.evaluation, tokenizer, 1, 64, 0)
    (chat,) = (item.chat for item in items if item.id == stream.rows[0].id)
    form = runners[0]._format
    asked = form.text(chat.turn.messages, asks=True, tools=chat.turn.tools)
    whole = runners[0]._tokens(
        asked + form.reply(chat.turn.messages, chat.turn.reply, chat.turn.tools)
    )
    assert stream.tokens[0].tolist() == whole[:64]
    assert len(whole) > 64
    assert not stream.answers[0, : len(runners[0]._tokens(asked))].any()


def test_a_grammar_leaves_calls_of_the_functions_alone(items, runners):
    """Of a model with random weights, which would write anything."""
    requests = [item.request() for item in items]
    free, held = (runners[0].reply(requests, 96, in_grammar=way) for way in (False, True))
    assert not any(call_in(one["text"]) for one in free)
    for item, one in zip(items, held, strict=True):
        if one["text"].strip() != NO_CALL:
            call = call_in(one["text"])
            assert call["arguments"]["lamp"] in LAMPS
            assert judge_call(one["text"], item.chat.calls, item.chat.functions).called
    requests[0]["chat"]["functions"] = []
    (only,) = runners[0].reply(requests[:1], 96, in_grammar=True)
    assert only["text"].strip() == NO_CALL
    with pytest.raises(RuntimeError, match="no grammars"):
        runners[1].reply(requests, 8, in_grammar=True)


def test_without_a_template_prompts_are_plain(items, runners, monkeypatch):
    monkeypatch.setitem(runners[1].__dict__, "_format", None)
    requests = [item.request() for item in items]
    (first, *_) = runners[1].reply(requests, 4)
    assert first["prompt_tokens"] == len(runners[1].tokenize(items[0].prompt))
    assert "turn_on" in items[0].prompt
    assert runners[1].score(requests[:1])[0][0]["tokens"] == len(
        runners[1].tokenize(items[0].continuations[0])
    )


def test_a_build_says_how_calls_are(calls_file, tiny_folder, tmp_path):
    recipe = Recipe.of(QUICK, model=str(tiny_folder), task=str(calls_file), sparsity=0.5)
    made = build(recipe, tmp_path / "build", Quiet())
    found = made.manifest.results.artifacts["pruned"]
    assert found.accuracy == found.calls.free.exact
    assert found.calls.free.called.rows + found.calls.free.refused.rows == found.accuracy.rows
    assert found.calls.grammar.exact.rows == found.accuracy.rows
    assert found.calls.milliseconds > 0
    said = (tmp_path / "build/report.html").read_text()
    assert "called / right function / refused" in said
    assert "exact calls, in a grammar" in said
    again = evaluate(made.artifact, str(calls_file), eval_rows=recipe.measurement.eval_rows)
    assert again.calls.free == found.calls.free
    assert again.accuracy == found.accuracy


def test_short_answers_go_through_the_template_unless_told_not_to(tmp_path, runners):
    rows = "".join(
        json.dumps({"question": f"What is {n} and {n}?", "answers": [str(2 * n)]}) + "\n"
        for n in range(60)
    )
    (tmp_path / "sums.jsonl").write_text(rows)
    sizes = []
    for chat in ("true", "false"):
        task = tmp_path / f"{chat}.yaml"
        task.write_text(
            f"name: sums\nkind: short_answer\nchat: {chat}\n"
            "sources: [{kind: local, calibration: sums.jsonl, evaluation: sums.jsonl}]\n"
        )
        data = load_data(str(task), "boolq_passages", 3, 512)
        requests = [item.request() for item in measure_plan(Recipe.of(task=str(task)), data).items]
        assert all(one[0]["tokens"] for one in runners[0].score(requests))
        sizes.append([one["prompt_tokens"] for one in runners[0].reply(requests, 4)])
    assert all(long > short for long, short in zip(*sizes, strict=True))
