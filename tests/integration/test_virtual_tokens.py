"""Virtual tokens: trained alone, put into the vocabulary, read by every runtime."""

import json

import pytest
import torch

from edgeprune import Recipe, build
from edgeprune.data.template import ChatTemplate
from edgeprune.formats.chat import ChatFormat
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.models import open_checkpoint
from edgeprune.models.checkpoint import Checkpoint
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.models.virtual_tokens import virtual_tokenizer, with_prefix, write_extended
from edgeprune.recovery import virtual
from edgeprune.recovery.virtual import Tuning, tune
from edgeprune.support.errors import InputError, UsageError
from edgeprune.support.progress import Quiet
from exporters.base import StorageRequest
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from tests.support.exporting import dense_model, export_gguf, export_onnx
from tests.support.recipes import QUICK

COUNT = 4
BOS_TEMPLATE = (
    "{{- bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def base(tiny_folder):
    return open_checkpoint(str(tiny_folder))


@pytest.fixture(scope="module")
def own(base):
    return virtual_tokenizer(base, COUNT)


@pytest.fixture(scope="module")
def rows(own):
    template = ChatTemplate.of(own.tokenizer)
    talks = [
        [{"role": "user", "content": f"Say {word}"}, {"role": "assistant", "content": "blue"}]
        for word in ("red", "green", "black", "white", "pink") * 4
    ]
    return [template.conversation(talk) for talk in talks]


@pytest.fixture(scope="module")
def extended(base, own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended") / "model"
    vectors = torch.randn(COUNT, 64, generator=torch.Generator().manual_seed(1))
    write_extended(base, base.weights(), own, vectors, folder)
    return Checkpoint("extended", "extended", folder, "0"), vectors


def test_a_template_begins_with_them_behind_its_bos():
    talk = [{"role": "user", "content": "Hi"}]
    special = {"bos_token": "<s>"}
    found = ChatFormat(with_prefix(BOS_TEMPLATE, "<v>", special), special).text(talk, asks=True)
    assert found == "<s><v><user>Hi</s><assistant>"
    plain = BOS_TEMPLATE.removeprefix("{{- bos_token }}")
    found = ChatFormat(with_prefix(plain, "<v>", special), special).text(talk, asks=True)
    assert found == "<v><user>Hi</s><assistant>"
    hidden = "{% if false %}{{ bos_token }}{% endif %}" + plain
    with pytest.raises(InputError, match="no place"):
        with_prefix(hidden, "<v>", special)


def test_prompts_begin_with_them(own, rows):
    assert len(own.ids) == COUNT
    assert own.ids.start == 49152
    for ids, answers in rows:
        assert ids[:COUNT] == list(own.ids)
        assert not any(answers[:COUNT])


def test_a_model_without_a_template_has_no_place_for_them(small_folder, tiny_folder, tmp_path):
    for file in tiny_folder.iterdir():
        if "template" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="no chat template"):
        virtual_tokenizer(open_checkpoint(str(tmp_path)), COUNT)


def test_rows_are_learnt_and_nothing_else(base, own, rows, tmp_path):
    model = load_model(base, torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, facts = tune(model, rows, own.ids, Tuning(steps=24, batch=4), tmp_path, Quiet())
    assert found.shape == (COUNT, 64)
    losses = [point["held_out"] for point in facts["curve"]]
    assert min(losses) < 0.7 * losses[0]
    after = model.float().state_dict()
    assert all(torch.equal(v.bfloat16().float(), after[n].float()) or torch.equal(v, after[n])
               for n, v in before.items())  # fmt: skip
    assert virtual.finished(tmp_path)[1] == facts


def test_a_killed_run_goes_on_to_the_same_rows(base, own, rows, tmp_path, monkeypatch):
    how = Tuning(steps=12, batch=4)
    whole, _ = tune(load_model(base), rows, own.ids, how, tmp_path / "whole", Quiet())
    taken = []
    take = virtual._Run.take

    def die(self, steps):
        if len(taken) == 7:
            raise KeyboardInterrupt
        taken.append(1)
        return take(self, steps)

    monkeypatch.setattr(virtual._Run, "take", die)
    with pytest.raises(KeyboardInterrupt):
        tune(load_model(base), rows, own.ids, how, tmp_path / "killed", Quiet())
    monkeypatch.undo()
    again, facts = tune(load_model(base), rows, own.ids, how, tmp_path / "killed", Quiet())
    assert torch.equal(whole, again)
    assert [point["step"] for point in facts["curve"]] == [0, 2, 4, 6, 8, 10, 12]


def test_a_time_budget_becomes_steps(base, own, rows, tmp_path):
    _, facts = tune(load_model(base), rows, own.ids, Tuning(seconds=1.0), tmp_path, Quiet())
    assert facts["steps"] == facts["planned_steps"] >= 2


def test_the_extended_model_reads_rows_as_it_was_trained_with_them(base, own, rows, extended):
    checkpoint, vectors = extended
    whole, plain = load_model(checkpoint, torch.float32), load_model(base, torch.float32)
    ids = torch.tensor([rows[0][0]])
    with virtual._reading(plain, vectors, own.ids.start), torch.no_grad():
        expected = plain(input_ids=ids).logits
    found = whole(input_ids=ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert load_tokenizer(checkpoint).get_chat_template() == own.tokenizer.chat_template


def test_runtimes_read_them_as_single_tokens_of_the_template(extended, rows, tmp_path):
    checkpoint, _ = extended
    model = dense_model(checkpoint)
    export_gguf(model, StorageRequest(type="f32"), tmp_path / "model.gguf")
    export_onnx(model, StorageRequest(type="fp32"), tmp_path / "model.onnx")
    runners = [LlamaCpp(tmp_path / "model.gguf", 2), OnnxRuntime(tmp_path / "model.onnx", 2)]
    ids = torch.tensor([rows[0][0]])
    logits = load_model(checkpoint, torch.float32)(input_ids=ids).logits[0].log_softmax(-1)
    turn = {"messages": [{"role": "user", "content": "Say red"}], "tools": [],
            "reply": {"role": "assistant", "content": "blue"}}  # fmt: skip
    item = {"prompt": "", "continuations": [""], "chat": {"turn": turn, "functions": []}}
    own = [n for n, answers in enumerate(rows[0][1]) if answers]
    expected = sum(float(logits[n - 1, ids[0, n]]) for n in own)
    for runner in runners:
        ((score,),) = runner.score([item])
        assert score["tokens"] == len(own)
        assert score["logprob"] == pytest.approx(expected, rel=1e-3)
        (reply,) = runner.reply([item], 4)
        assert reply["prompt_tokens"] == own[0]
    kinds = open_gguf(tmp_path / "model.gguf").get("tokenizer.ggml.token_type")
    assert list(kinds[-COUNT:]) == [3] * COUNT  # control tokens: never shown


@pytest.fixture(scope="module")
def capitals(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "capitals.jsonl"
    rows = [{"question": f"Town number {n}?", "answers": ["blue town"]} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("ways", ["", "finetune"])
def test_a_build_with_them_alone_and_after_training(ways, capitals, tiny_folder, tmp_path):
    settings = QUICK | {
        "training.enabled": True, "training.ways": ways, "training.virtual_tokens": COUNT,
        "training.steps": 6, "artifact.type": "q4_0", "artifact.embedding_type": "q4_0",
        "pruning.sparsity": 0.5,
    }  # fmt: skip
    recipe = Recipe.of(settings, model=str(tiny_folder), task=str(capitals))
    made = build(recipe, tmp_path / "build", Quiet())
    facts = made.manifest.training
    assert list(facts.trained) == [*([ways] if ways else []), "virtual"]
    before, after = facts.virtual.held_out_losses
    assert after < before
    said = (tmp_path / "build/report.html").read_text()
    assert f"{COUNT} virtual tokens" in said
    embedding = next(row for row in made.manifest.artifact.tensors if "token_embd" in row.name)
    assert embedding.shape[0] == 49152 + COUNT
    dense, pruned = (made.manifest.results.artifacts[n] for n in ("dense", "pruned"))
    if not ways:
        assert pruned.nats_per_answer_token.value < dense.nats_per_answer_token.value
    again = build(recipe, tmp_path / "build", Quiet())
    assert again.manifest == made.manifest


def test_tasks_that_choose_have_no_place_for_them(rows_file, tiny_folder, tmp_path):
    settings = QUICK | {"training.enabled": True, "training.virtual_tokens": 2}
    recipe = Recipe.of(settings, model=str(tiny_folder), task=str(rows_file), sparsity=0.5)
    with pytest.raises(UsageError, match="do not go through it"):
        build(recipe, tmp_path / "build", Quiet())
    with pytest.raises(UsageError, match="needs a way"):
        Recipe.of({"training.enabled": True, "training.ways": []}, task=str(rows_file))
