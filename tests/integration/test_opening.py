"""A tokenizer's BOS: at the head of what is calibrated on and of what is measured on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter

from edgeprune.data.render import Renderer
from edgeprune.data.sources import load_split
from edgeprune.data.streams import Stream, pack
from edgeprune.data.task import open_corpus, open_task
from edgeprune.formats.gguf.file import open_gguf
from edgeprune.models import open_checkpoint
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.models.opening import opening
from exporters.base import StorageRequest
from exporters.gguf import tokenizer as tokenizer_module
from exporters.gguf.same_ids import check_same_ids
from runtime_tests.runners.inputs import begun, windows
from runtime_tests.runners.llamacpp import LlamaCpp
from runtime_tests.runners.onnxruntime import OnnxRuntime
from runtime_tests.runners.transformers import Transformers
from tests.support.exporting import Counter, dense_model, export_gguf, export_onnx
from tests.support.models import make_tiny

BOS = 1


@pytest.fixture(scope="module")
def bos_folder(real_checkpoint, tmp_path_factory) -> Path:
    """A tiny Llama whose tokenizer.json adds a BOS, as Llama 3's and Gemma's do."""
    place = tmp_path_factory.mktemp("bos") / "tiny-bos"
    folder = make_tiny(real_checkpoint, place, max_position_embeddings=4096)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}},
                 {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [BOS], "tokens": ["<|im_start|>"]}
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    # What transformers leaves unread beside a tokenizer.json, and gguf's own writer obeys.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    return folder


@pytest.fixture(scope="module")
def runners(bos_folder, tmp_path_factory) -> list:
    """One model in the three runtimes."""
    place = tmp_path_factory.mktemp("runners")
    model = dense_model(open_checkpoint(str(bos_folder)))
    export_gguf(model, StorageRequest("f32"), place / "m.gguf", None, "test", Counter())
    export_onnx(model, StorageRequest("fp32"), place / "m.onnx", None, "test", Counter())
    return [
        LlamaCpp(place / "m.gguf", 2), OnnxRuntime(place / "m.onnx", 2), Transformers(bos_folder, 2)
    ]  # fmt: skip


def text() -> str:
    return " ".join(
        row.fields["text"] for row in load_split(open_corpus("boolq_passages")).evaluation[:20]
    )


def test_every_runner_reads_perplexity_behind_the_bos(bos_folder, runners):
    checkpoint = open_checkpoint(str(bos_folder))
    ids = load_tokenizer(checkpoint)(text(), add_special_tokens=False).input_ids[:1100]
    model, expected = load_model(checkpoint, torch.float32), []
    for start in (0, 511):  # all 511 tokens of the text are predicted, the BOS is not
        window = torch.tensor([BOS, *ids[start : start + 511]])
        with torch.no_grad():
            logits = model(window[None]).logits[0, :-1].log_softmax(-1)
        expected.append(-logits[torch.arange(511), window[1:]].sum().item())
    for runner in runners:
        found = runner.perplexity(text(), 1100)
        assert found["tokens"] == 1022, runner
        assert found["nats"] == pytest.approx(expected, rel=1e-3), runner


def test_every_runner_scores_behind_the_bos_even_if_the_prompt_is_cut(bos_folder, runners):
    checkpoint = open_checkpoint(str(bos_folder))
    tokenizer, model = load_tokenizer(checkpoint), load_model(checkpoint, torch.float32)
    long = text()[:12000]
    for prompt in ("", "Question: which vitamin?\nAnswer:", long):
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        end = tokenizer(" B12", add_special_tokens=False).input_ids
        whole = torch.tensor([[BOS, *ids[1 + len(end) - 2048 :], *end]])
        assert prompt != long or whole.shape[1] == 2048
        with torch.no_grad():
            logits = model(whole).logits[0, -len(end) - 1 : -1].log_softmax(-1)
        expected = logits[torch.arange(len(end)), torch.tensor(end)].sum().item()
        for runner in runners:
            ((score,),) = runner.score([{"prompt": prompt, "continuations": [" B12"]}])
            assert score["tokens"] == len(end)
            assert score["logprob"] == pytest.approx(expected, abs=0.02 * len(end)), runner


def test_the_file_says_what_the_tokenizer_does(runners, tiny_folder, tmp_path):
    assert open_gguf(runners[0]._path).get("tokenizer.ggml.add_bos_token") is True
    assert open_gguf(runners[0]._path).get("tokenizer.ggml.bos_token_id") == BOS
    path = tmp_path / "m.gguf"
    model = dense_model(open_checkpoint(str(tiny_folder)))
    export_gguf(model, StorageRequest("f16"), path, None, "test", Counter())
    assert open_gguf(path).get("tokenizer.ggml.add_bos_token") is False


@pytest.mark.parametrize("said", [True, False])
def test_a_gguf_file_is_opened_with_the_bos_that_llama_cpp_adds(
    said, bos_folder, tmp_path, monkeypatch
):
    """Also where the file leaves it to llama.cpp, as older ones of Llama 3 do."""
    folder = tmp_path / "llama3"
    shutil.copytree(bos_folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    regex = next(r for r, name in tokenizer_module._SPLITS.items() if name == "llama-bpe")
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if not said:
        monkeypatch.setattr(GGUFWriter, "add_add_bos_token", lambda *_: None)
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "m.gguf"
    model = dense_model(open_checkpoint(str(folder)))
    export_gguf(model, StorageRequest("q8_0"), path, None, "test", Counter())
    assert open_gguf(path).get("tokenizer.ggml.add_bos_token") is (True if said else None)
    again = open_checkpoint(str(path))
    assert load_tokenizer(again)("a").input_ids[0] == BOS
    check_same_ids(path, again.folder)


def packed(tokenizer, length: int) -> Stream:
    task = open_task("mmlu_med")
    return pack(
        Renderer(task), load_split(task).calibration, tokenizer, samples=3, length=length, seed=0
    )


def test_calibration_sequences_begin_with_the_bos_and_lose_no_text(bos_folder, tiny_folder):
    with_bos = packed(load_tokenizer(open_checkpoint(str(bos_folder))), 65)
    without = packed(load_tokenizer(open_checkpoint(str(tiny_folder))), 64)
    assert (with_bos.tokens[:, 0] == BOS).all()
    assert not with_bos.answers[:, 0].any()
    assert torch.equal(with_bos.tokens[:, 1:], without.tokens)
    assert torch.equal(with_bos.answers[:, 1:], without.answers)
    assert with_bos.answers.any()
    assert with_bos.rows == without.rows


def test_a_tokenizer_without_a_bos_gives_what_it_gave(tiny_folder):
    """To the last token: the rows' own ids, cut at the length."""
    tokenizer = load_tokenizer(open_checkpoint(str(tiny_folder)))
    stream = packed(tokenizer, 64)
    assert tokenizer.decode(stream.tokens.flatten()) in _all_text(stream)
    ids = list(range(1100))
    assert list(windows(ids, [])) == [(ids[:512], 1), (ids[512:1024], 1)]
    assert begun(ids, [], 2048) == ids


def _all_text(stream: Stream) -> str:
    from edgeprune.data.render import Renderer

    renderer = Renderer(open_task("mmlu_med"))
    return "".join(renderer.calibration_text(row) for row in stream.rows)


@pytest.mark.parametrize(
    ("before", "behind"), [([], []), ([7], []), ([7, 8], []), ([], [9]), ([7], [9])]
)
def test_an_opening_is_what_stands_before_a_text_not_behind_it(before, behind):
    def tokenize(_text: str, special: bool) -> list[int]:
        return [*before, 5, 6, *behind] if special else [5, 6]

    assert opening(tokenize) == before


def test_windows_and_prompts_keep_the_opening():
    ids = list(range(100, 1200))
    assert list(windows(ids, [7])) == [([7, *ids[:511]], 1), ([7, *ids[511:1022]], 1)]
    assert list(windows(ids, [7, 8]))[1] == ([7, 8, *ids[510:1020]], 2)
    assert begun(ids, [7], 4) == [7, *ids[-3:]]
    assert begun(ids[:3], [7], 4) == [7, *ids[:3]]
