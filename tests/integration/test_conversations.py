"""Conversations: in the model's own template, written by the model, measured in its runtime."""

import json

import pytest
import torch

from edgeprune import Recipe, build
from edgeprune.data.conversations import (
    divided,
    make_conversation,
    pack_conversations,
    read_conversations,
)
from edgeprune.data.template import ChatTemplate
from edgeprune.data.template_lint import problems
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_tokenizer
from edgeprune.pipeline import conversations
from edgeprune.pipeline.job import open_job
from edgeprune.pipeline.streams import streams, training_streams
from edgeprune.pipeline.workspace import Workspace
from edgeprune.support.errors import InputError
from edgeprune.support.progress import Quiet
from exporters.base import StorageRequest
from runtime_tests.runners.base import InProcess
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from runtime_tests.runners.transformers import Transformers
from tests.support.exporting import dense_model, export_gguf, export_onnx
from tests.support.recipes import QUICK

TALK = [
    {"role": "user", "content": "What is aspirin for?"},
    {"role": "assistant", "content": "Pain and fever."},
    {"role": "user", "content": "And paracetamol?"},
    {"role": "assistant", "content": "The same."},
]


@pytest.fixture(scope="module")
def template(tiny_folder):
    return ChatTemplate.of(load_tokenizer(open_checkpoint(str(tiny_folder))))


@pytest.fixture
def talks_file(tmp_path):
    path = tmp_path / "talks.jsonl"
    turns = [
        [{"role": "user", "content": f"What is {n} and {n}?"},
         {"role": "assistant", "content": f"That is {2 * n}, and {2 * n} is an even number. " * 2}]
        for n in range(60)
    ]  # fmt: skip
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    return path


def test_the_assistants_words_and_their_ends_are_told_from_the_rest(template):
    ids, own = template.conversation(TALK)
    text = template.tokenizer.decode
    said = text([token for token, mine in zip(ids, own, strict=True) if mine])
    assert said == "Pain and fever.<|im_end|>The same.<|im_end|>"
    assert text(ids) == template.text(TALK)
    assert text(template.prompt(TALK[:1])).endswith("<|im_start|>assistant\n")
    opened = text(template.empty_user_turn())
    assert opened.endswith("<|im_start|>user\n")
    assert template.text(TALK).startswith(opened)


def test_an_answer_that_was_cut_has_no_end_to_learn(template):
    cut = [*TALK[:3], TALK[3] | {"cut": True}]
    ids, own = template.conversation(cut)
    text = template.tokenizer.decode
    assert text(ids).endswith("<|im_start|>assistant\nThe same.")
    said = text([token for token, mine in zip(ids, own, strict=True) if mine])
    assert said == "Pain and fever.<|im_end|>The same."


def test_a_base_model_has_no_template_and_a_broken_one_is_said(tiny_folder):
    tokenizer = load_tokenizer(open_checkpoint(str(tiny_folder)))
    tokenizer.chat_template = None
    assert ChatTemplate.of(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles must alternate"):
        ChatTemplate.of(tokenizer).prompt(TALK[:1])


@pytest.mark.parametrize(("source", "said"), [
    (None, None),
    ("{{ env('HOME') }}", "the function 'env'"),
    ("{% for m in messages %}{{ m.content | wordwrap }}<|im_end|>{% endfor %}", "'wordwrap'"),
    ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "does not end a generation"),
    ("{% generation %}x{% endgeneration %}", "syntax beyond"),
    ("{% macro say(m) %}{{ m.content }}{% endmacro %}"
     "{% for m in messages %}{{ say(m) }}<|im_end|>{% endfor %}", None),
])  # fmt: skip
def test_a_template_that_small_engines_do_not_read_is_said(tiny_folder, source, said):
    tokenizer = load_tokenizer(open_checkpoint(str(tiny_folder)))
    tokenizer.chat_template = source or tokenizer.chat_template
    found = problems(ChatTemplate(tokenizer), {tokenizer.eos_token_id})
    if said is None:
        assert not found
    else:
        assert any(said in line for line in found)


def test_conversations_fill_sequences(template):
    rows = [make_conversation(TALK[:2]), make_conversation(TALK)]
    stream = pack_conversations(template, rows, samples=9, length=16, seed=0)
    ids = [
        token for row in stream.rows for token in template.conversation(row.fields["messages"])[0]
    ]
    assert stream.tokens.flatten().tolist() == ids[: len(ids) // 16 * 16]
    assert 0 < stream.answers.sum() < stream.answers.numel()
    assert pack_conversations(template, rows, 9, 1000, 0).tokens.shape == (0, 1000)


@pytest.mark.parametrize("row", [
    {"messages": "hello"}, {"messages": []}, {"messages": TALK[:1]}, {"text": "hello"},
    {"messages": [{"role": "assistant"}]},
])  # fmt: skip
def test_rows_that_are_no_conversations_are_refused(tmp_path, row):
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"messages": TALK}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match="row 2: expected 'messages'"):
        read_conversations(path)


def test_a_file_that_is_not_there_is_said_before_any_work(tiny_folder, rows_file, tmp_path):
    recipe = Recipe.of(
        {**QUICK, "data.chat": "talks.jsonl"}, model=str(tiny_folder), task=str(rows_file)
    )
    with pytest.raises(InputError, match=r"No such file: talks\.jsonl"):
        build(recipe, tmp_path / "build", Quiet())


def test_held_out_conversations_are_others():
    rows = [make_conversation([{"role": "assistant", "content": str(n)}]) for n in range(90)]
    learnt, held_out = divided(rows)
    assert not {row.id for row in learnt} & {row.id for row in held_out}
    assert len(learnt) + len(held_out) == 90
    assert 15 < len(held_out) < 45


def test_half_of_the_general_stream_are_conversations(tiny_folder, rows_file, talks_file, tmp_path):
    recipe = Recipe.of(
        {**QUICK, "data.samples": 6, "data.chat": str(talks_file)},
        model=str(tiny_folder), task=str(rows_file),
    )  # fmt: skip
    job = open_job(recipe, Workspace(tmp_path / "run", Quiet()))
    general = streams(job)["general"]
    talks = (general.tokens == 1).any(1)  # <|im_start|>
    assert talks.tolist() == [False, True] * 3
    apart = training_streams(job, 8)
    assert list(apart) == ["general", "task", "chat"]
    assert (apart["chat"].tokens == 1).any(1).all()
    alone = job.changed({"data.chat": "none"})
    assert "chat" not in training_streams(alone, 8)
    assert not (streams(alone)["general"].tokens == 1).any()


@pytest.fixture(scope="module")
def tiny_gguf(tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = dense_model(open_checkpoint(str(tiny_folder)))
    export_gguf(model, StorageRequest(type="f32"), path)
    return path


def test_texts_written_together_are_those_written_alone(template, tiny_gguf, monkeypatch):
    runner = LlamaCpp(tiny_gguf, 2)
    prompts = [template.prompt([{"role": "user", "content": "a " * n}]) for n in (1, 5, 40)]
    together = runner.write(prompts, max_tokens=12)
    assert [len(one["tokens"]) for one in together] == [12] * 3
    how = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 3}
    drawn = runner.write(prompts, **how)
    assert drawn == runner.write(prompts, **how)
    assert drawn != runner.write(prompts, **how | {"seed": 4})
    monkeypatch.setattr(LlamaCpp, "_write", InProcess._write)
    assert runner.write(prompts, max_tokens=12) == together


def test_onnx_writes_texts_together_as_alone(template, tiny_folder, tmp_path, monkeypatch):
    """Of prompts of several lengths, with an end that comes at another place in each."""
    path = tmp_path / "model.onnx"
    model = dense_model(open_checkpoint(str(tiny_folder)))
    export_onnx(model, StorageRequest(type="fp32"), path)
    runner = OnnxRuntime(path, 2)
    prompts = [template.prompt([{"role": "user", "content": "a " * n}]) for n in range(1, 12)]
    free = runner.write(prompts, max_tokens=12)
    runner._ends = {one["tokens"][2 + place % 6] for place, one in enumerate(free)}
    together = runner.write(prompts, max_tokens=12)
    assert len({len(one["tokens"]) for one in together}) > 2
    assert any(one["ended"] for one in together)
    monkeypatch.setattr(OnnxRuntime, "_write", InProcess._write)
    assert runner.write(prompts, max_tokens=12) == together


def test_predictions_of_a_model_are_its_own_and_nearly_its_checkpoints(
    template, tiny_folder, tiny_gguf, tmp_path
):
    ids, own = template.conversation(TALK)
    rows = [{"ids": ids, "places": [place for place, mine in enumerate(own[1:]) if mine]}]
    file, runner = str(tmp_path / "dense.npy"), LlamaCpp(tiny_gguf, 2)
    runner.predict(rows, file)
    same = runner.divergence(rows, file)
    assert same["same"] == [True] * len(rows[0]["places"])
    assert max(map(abs, same["nats"])) < 1e-3  # 16 bits
    other = Transformers(tiny_folder, 2).divergence(rows, file)
    assert max(map(abs, other["nats"])) < 1e-2
    changed = Transformers(tiny_folder, 2)
    with torch.no_grad():
        changed._model.get_input_embeddings().weight.mul_(0.5)
    assert min(changed.divergence(rows, file)["nats"]) > 0


def test_a_build_learns_conversations_and_says_how_it_speaks(
    tiny_folder, rows_file, talks_file, tmp_path
):
    with talks_file.open("a") as file:  # longer than a runtime reads at once
        for n in range(9):
            long = [{"role": "user", "content": f"{n} and " * 1500}, TALK[1]]
            file.write(json.dumps({"messages": long}) + "\n")
    recipe = Recipe.of(
        {**QUICK, "data.chat": str(talks_file), "gates.max_kl": 99, "gates.max_loops": 1,
         "training.enabled": True, "training.steps": 2},
        model=str(tiny_folder), task=str(rows_file),
    )  # fmt: skip
    manifest = build(recipe, tmp_path / "build", Quiet()).manifest
    pruned, dense = (manifest.results.artifacts[name] for name in ("pruned", "dense"))
    assert set(pruned.agreement) == {"text", "chat"}
    assert not dense.agreement
    assert pruned.agreement["chat"].nats.value > 0
    assert 0 <= pruned.agreement["text"].same_top.value < 1
    assert dense.speech.prompts == pruned.speech.prompts
    assert len(dense.speech.answers) == len(dense.speech.prompts) > 10
    assert "from " in manifest.data.chat
    page = (tmp_path / "build/report.html").read_text()
    assert dense.speech.prompts[0] in page
    assert "divergence on chat, nats" in page


def test_a_model_without_a_template_has_text_alone(tiny_folder, rows_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ChatTemplate, "of", lambda tokenizer: None)
    recipe = Recipe.of({**QUICK, "data.chat": "auto"}, model=str(tiny_folder), task=str(rows_file))
    manifest = build(recipe, tmp_path / "build", Quiet()).manifest
    pruned = manifest.results.artifacts["pruned"]
    assert set(pruned.agreement) == {"text"}
    assert pruned.speech is None
    assert not manifest.data.chat


def test_a_model_writes_both_sides_of_its_conversations(
    real_checkpoint, rows_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    for name, count in (("_OWN", 6), ("_OF_TASK", 2), ("_QUESTION", 24), ("_ANSWER", 48)):
        monkeypatch.setattr(conversations, name, count)
    monkeypatch.setattr(conversations, "shipped_with", lambda name: None)
    recipe = Recipe.of({**QUICK, "data.chat": "auto"}, task=str(rows_file))
    job = open_job(recipe, Workspace(tmp_path / "run", Quiet()))
    learnt, held_out = conversations.conversations(job)
    assert learnt or held_out
    for row in [*learnt, *held_out]:
        roles = [message["role"] for message in row.fields["messages"]]
        assert roles == ["user", "assistant"]
    again = conversations.conversations(job)
    assert [row.id for row in again[0]] == [row.id for row in learnt]
