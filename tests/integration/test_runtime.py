"""The llama.cpp runner against transformers, and what is made of its numbers."""

import contextlib
import math
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgeprune.data.render import Renderer
from edgeprune.data.sources import load_split
from edgeprune.data.task import open_task
from edgeprune.formats.gguf.packed import pack
from edgeprune.manifest.results import OnGpu
from edgeprune.models.loading import load_model, load_tokenizer
from edgeprune.pipeline import measure as measure_module
from edgeprune.pipeline.workspace import Workspace
from edgeprune.report.caveats import about_gpu
from edgeprune.runtime.llamacpp import loading
from edgeprune.runtime.llamacpp.random_model import Sizes, write_random_llama
from edgeprune.support.errors import InputError, MachineError, UsageError
from edgeprune.support.progress import Quiet
from exporters.base import StorageRequest
from runtime_tests import Plan, run
from runtime_tests.accuracy import (
    Answered,
    Item,
    accuracy_interval,
    chance_level,
    judge,
    nats_difference,
    nats_per_token,
    near_chance,
)
from runtime_tests.child import TIMEOUT_VARIABLE, patience, start
from runtime_tests.runners.llamacpp import LlamaCpp
from tests.support.exporting import Counter, dense_model, export_gguf

run_module = sys.modules["runtime_tests.run"]  # the package has a function of that name


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    task = open_task("mmlu_med")
    renderer = Renderer(task)
    return [
        {
            "prompt": renderer.prompt(row),
            "continuations": [renderer.answer(row, i) for i in range(len(row.choices))],
        }
        for row in load_split(task).evaluation[:12]
    ]


def test_scores_equal_transformers_log_likelihoods(real_checkpoint, dense_f32, questions):
    tokenizer, model = load_tokenizer(real_checkpoint), load_model(real_checkpoint, torch.float32)
    scores = LlamaCpp(dense_f32, 2).score(questions)
    for question, found in zip(questions, scores, strict=True):
        prompt = tokenizer(question["prompt"], add_special_tokens=False).input_ids
        for text, score in zip(question["continuations"], found, strict=True):
            end = tokenizer(text, add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([prompt + end])).logits[0].log_softmax(-1)
            expected = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(end))
            assert score["tokens"] == len(end)
            assert score["logprob"] == pytest.approx(expected, abs=0.02 * len(end))


def test_sharing_prompts_and_batching_questions_changes_nothing(dense_f32, questions):
    runner = LlamaCpp(dense_f32, 2)
    together = runner.score(questions)
    for question, found in zip(questions, together, strict=True):
        for text, score in zip(question["continuations"], found, strict=True):
            alone = runner.score([{"prompt": question["prompt"], "continuations": [text]}])[0][0]
            tolerance = 0.02 * score["tokens"]  # of float16 in the KV cache, as above
            assert score["logprob"] == pytest.approx(alone["logprob"], abs=tolerance)


def test_perplexity_equals_transformers(real_checkpoint, dense_f32):
    text = " ".join(row.fields["text"] for row in load_split(open_text()).evaluation[:20])
    found = LlamaCpp(dense_f32, 2).perplexity(text, 1024)
    ids = load_tokenizer(real_checkpoint)(text, add_special_tokens=False).input_ids[:1024]
    model, nats = load_model(real_checkpoint, torch.float32), 0.0
    for window in torch.tensor(ids).view(2, 512):
        with torch.no_grad():
            logits = model(window[None]).logits[0, :-1].log_softmax(-1)
        nats -= logits[torch.arange(511), window[1:]].sum().item()
    assert found["tokens"] == 1022
    assert sum(found["nats"]) / 1022 == pytest.approx(nats / 1022, abs=0.003)


def test_an_f16_export_reads_text_as_transformers_and_the_source_do(real_checkpoint, tmp_path):
    """0.1 % of perplexity; the source widened to F32, for its own type has 8-bit activations."""
    from llama_cpp import llama_cpp as api

    f16, source = tmp_path / "f16.gguf", tmp_path / "source.gguf"
    export_gguf(dense_model(real_checkpoint), StorageRequest("f16"), f16, None, "test", Counter())
    settings = api.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = 0, True
    paths = (str(real_checkpoint.gguf).encode(), str(source).encode())
    assert api.llama_model_quantize(*paths, settings) == 0
    text = " ".join(row.fields["text"] for row in load_split(open_text()).evaluation[:20])
    ids = load_tokenizer(real_checkpoint)(text, add_special_tokens=False).input_ids[:1536]
    model, nats = load_model(real_checkpoint, torch.float32), 0.0
    for window in torch.tensor(ids).view(-1, 512):
        with torch.no_grad():
            logits = model(window[None]).logits[0, :-1].log_softmax(-1)
        nats -= logits[torch.arange(511), window[1:]].sum().item()
    expected = math.exp(nats / (3 * 511))
    for path in (f16, source):
        found = LlamaCpp(path, 2).perplexity(text, 1536)
        assert math.exp(sum(found["nats"]) / found["tokens"]) == pytest.approx(expected, rel=1e-3)


def open_text():
    from edgeprune.data.task import open_corpus

    return open_corpus("boolq_passages")


def test_greedy_answers_equal_transformers(real_checkpoint, dense_f32):
    prompt = "The capital of France is"
    tokenizer, model = load_tokenizer(real_checkpoint), load_model(real_checkpoint, torch.float32)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    expected = tokenizer.decode(out, skip_special_tokens=True).strip().partition("\n")[0]
    (answer,) = LlamaCpp(dense_f32, 2).generate([prompt], 12)
    assert answer == expected
    assert "Paris" in answer


def test_an_empty_prompt_scores_the_text_itself(dense_f32):
    runner = LlamaCpp(dense_f32, 2)
    text = "The heart pumps blood through the body."
    (((score),),) = runner.score([{"prompt": "", "continuations": [text]}])
    assert score["tokens"] == len(runner.tokenize(text)) - 1
    assert math.isfinite(score["logprob"])


def test_long_prompts_are_cut_from_the_left(dense_f32):
    runner = LlamaCpp(dense_f32, 2)
    ((one, two),) = runner.score(
        [
            {
                "prompt": "word " * 5000 + "The capital of France is",
                "continuations": [" Paris", " Oslo"],
            }
        ]
    )
    assert one["logprob"] > two["logprob"]


def test_refused_and_crashed_artifacts_are_errors_of_the_machine(tmp_path: Path, dense_f32):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(MachineError, match=r"bad\.gguf"), start(bad, 1):
        pass
    with start(dense_f32, 1) as child:
        child._process.kill()
        with pytest.raises(MachineError, match="exited with code -9"):
            child.call("info")


def test_a_child_that_hangs_is_stopped(dense_f32, monkeypatch):
    with start(dense_f32, 1) as child:
        child._process.send_signal(signal.SIGSTOP)
        monkeypatch.setenv(TIMEOUT_VARIABLE, "1.5")
        with pytest.raises(
            MachineError, match=r"did not finish 'info' .* within 2 seconds"
        ) as stopped:
            child.call("info")
        assert TIMEOUT_VARIABLE in str(stopped.value.hint)
        assert child._process.poll() == -signal.SIGKILL


def test_patience_grows_with_the_work(monkeypatch):
    short, long = ({"tokens": n, "prompt_tokens": 8, "batch": 2} for n in (8, 80_000))
    assert 1000 < patience({}) < patience(short) < patience(long) - 30_000
    few, many = ({"prompts": ["word " * n], "max_tokens": 4} for n in (1, 1000))
    assert patience({}) < patience(few) < patience(many)
    monkeypatch.setenv(TIMEOUT_VARIABLE, "60")
    assert patience(long) == 60
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(TIMEOUT_VARIABLE, wrong)
        with pytest.raises(
            UsageError, match=f"{TIMEOUT_VARIABLE}={wrong}: expected a number of seconds"
        ):
            patience(long)


def test_errors_of_edgeprune_keep_their_kind_and_hint_across_the_process(tmp_path):
    """A packed file that is damaged is bad input, in a child as everywhere."""
    plain, packed = tmp_path / "m.gguf", tmp_path / "m.packed.gguf"
    write_random_llama(plain, Sizes(("Q8_0",)), zeros=0.5)
    pack(plain, packed)
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2))
    with pytest.raises(InputError, match="damaged") as found, start(packed, 1):
        pass
    assert found.value.hint == "Pack it again."


def test_two_threads_that_enable_at_once_keep_llama_cpps_own_function(monkeypatch):
    """One that took the other's wrapper for llama.cpp's own would make it call itself for ever."""
    both_have_looked = threading.Barrier(2)

    class Api:
        stock = staticmethod(lambda *_: "stock")
        taken = None

        @property
        def llama_model_load_from_file(self):
            with contextlib.suppress(threading.BrokenBarrierError):
                both_have_looked.wait(0.5)
            return self.taken or self.stock

        @llama_model_load_from_file.setter
        def llama_model_load_from_file(self, function):
            self.taken = function

    api = Api()
    monkeypatch.setattr(loading, "load", lambda _: SimpleNamespace(llama_cpp=api))
    monkeypatch.setattr(loading.availability, "status", lambda: None)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: loading.enable(), range(2)))
    assert getattr(api, loading._MARK) is api.stock
    assert api.taken is loading._load_any


def test_a_gpu_that_fails_costs_neither_the_build_nor_the_figures_of_the_cpu(tmp_path, monkeypatch):
    """Its child says what onnxruntime says of a GPU without memory."""
    from runtime_tests.runners import RUNNERS

    calls = []
    child_fails = MachineError("The runtime cannot run m.onnx:\nFailed to allocate memory.")

    def failing(*_):
        calls.append("gpu")
        raise child_fails

    def gpus_that_say(why_not):
        here = tuple(replace(gpu, why_not=why_not) for gpu in RUNNERS["onnxruntime"].gpus)
        monkeypatch.setitem(RUNNERS, "onnxruntime", replace(RUNNERS["onnxruntime"], gpus=here))

    gpus_that_say(str)
    monkeypatch.setattr("runtime_tests.speeds.start", failing)
    monkeypatch.setattr(
        measure_module, "measure_plan", lambda *_: Plan([], "acc", 8, "", 512, 16, 4, 1, 1, 1)
    )
    monkeypatch.setattr(measure_module, "speech", lambda _: None)
    monkeypatch.setattr("runtime_tests.run", lambda *_: calls.append("cpu") or {"rows": 0})
    job = SimpleNamespace(run=Workspace(tmp_path, Quiet()), recipe=None, data=None)
    (tmp_path / "work").mkdir(exist_ok=True)
    artifacts = {"dense": {"file": "m.onnx", "files": {}}}

    def measured():
        return measure_module.measure(job, artifacts)

    first = measured()
    assert first["rows"] == 0
    assert first["gpus"]["CUDA"] == {
        "failed": "The runtime cannot run m.onnx: Failed to allocate memory."
    }
    assert about_gpu(OnGpu(**first["gpus"]["CUDA"])).startswith("failed: The runtime cannot run")
    assert calls == ["cpu", "gpu", "gpu", "gpu"]
    gpus_that_say(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured()  # a GPU that failed is tried again; the CPU's figures stay
    assert calls == ["cpu", "gpu", "gpu", "gpu"]


def test_only_onnx_models_are_measured_on_gpus():
    assert run_module.run_on_gpus(Path("model.gguf"), None, None) == {}


def test_the_child_holds_the_memory_and_ends(dense_f32):
    with start(dense_f32, 1) as child:
        assert child.call("peak_memory") > 0.9 * dense_f32.stat().st_size
        process = child._process
    assert process.poll() is not None


def test_a_whole_run_measures_both_and_their_difference(
    real_checkpoint, dense_f32, tmp_path, questions
):
    small = tmp_path / "q4.gguf"
    export_gguf(dense_model(real_checkpoint), StorageRequest("q4_0"), small, None, "t", Counter())
    items = [
        Item(str(i), q["prompt"], tuple(q["continuations"]), 0, (1, 1, 1, 1))
        for i, q in enumerate(questions)
    ]
    plan = Plan(items, "acc", 8, "word " * 2000, 1024, 32, 8, 2, 3, 2)
    seen = []

    class Stage:
        def __init__(self, name, total):
            seen.append((name, total))

        def __enter__(self):
            return Counter()

        def __exit__(self, *_):
            return None

    result = run({"dense": dense_f32, "pruned": small}, plan, Stage)
    assert set(result["artifacts"]) == {"dense", "pruned"}
    for record in result["artifacts"].values():
        for kind, runs in (("prefill", 6), ("decode", 3)):  # two processes of three rounds
            assert [len(one) for one in record[kind]["samples"]] == [runs] * 2
        assert record["decode"]["median"] > 0
        assert record["accuracy"]["rows"] == 12
        assert record["general_perplexity"]["tokens"] == 1022
    dense, pruned = (result["artifacts"][n]["nats_per_answer_token"] for n in ("dense", "pruned"))
    speed = result["difference"]["decode_speed"]
    assert speed["low"] <= speed["value"] <= speed["high"]
    change = result["difference"]["nats_per_answer_token"]
    assert change["value"] == pytest.approx(pruned["value"] - dense["value"])
    assert change["low"] <= change["value"] <= change["high"]
    assert [name for name, _ in seen] == ["time", "evaluate", "perplexity"]


def scores(*logprobs: float) -> list[dict[str, float]]:
    return [{"logprob": value, "tokens": 2} for value in logprobs]


def test_metrics_choose_as_lm_evaluation_harness_defines():
    item = Item("1", "q", (" a", " bbbbbbbb"), 1, (1, 8))
    assert judge(item, scores(-3.0, -4.0), "acc", None).correct is False
    assert judge(item, scores(-3.0, -4.0), "acc_norm", None).correct is True
    assert judge(item, scores(-3.0, -4.0), "nats", None) == Answered(None, 4.0, 2)


@pytest.mark.parametrize(
    ("written", "correct"),
    [("50", True), (" 50. ", True), ("fifty", False), ("", False), ("5", False)],
)
def test_exact_match(written, correct):
    item = Item("1", "q", (" 50",), 0, (), ("50", "50.0"))
    assert judge(item, scores(-1.0), "exact_match", written).correct is correct


def test_chance_level_is_a_random_choice_or_the_most_frequent_answer():
    four = ("a", "b", "c", "d")
    even = [Item(str(i), "q", four, i % 4) for i in range(8)]
    assert chance_level(even) == 0.25
    skewed = [Item(str(i), "q", four, int(i == 0)) for i in range(8)]
    assert chance_level(skewed) == 7 / 8
    own = [Item(str(i), "q", (*four[:3], str(i)), 3) for i in range(8)]
    assert chance_level(own) == 0.25  # the right choice's place is nothing the model sees
    assert chance_level([Item("1", "q", ("a",), 0)]) is None


def test_near_chance_is_an_interval_that_reaches_chance_level():
    rows = [Answered(i < 30, 1.0, 1) for i in range(100)]
    interval = accuracy_interval(rows)
    assert interval["value"] == 0.3
    assert interval["low"] == pytest.approx(0.219, abs=0.001)  # Wilson, by hand
    assert interval["high"] == pytest.approx(0.396, abs=0.001)
    assert near_chance(interval, 0.25)
    assert not near_chance(interval, 0.2)
    assert not near_chance(None, 0.25)


def test_nats_are_per_token_and_differences_are_paired():
    generator = np.random.default_rng(0)
    before = [Answered(None, float(x), 2) for x in generator.uniform(1, 9, 200)]
    after = [Answered(None, a.nats + 0.2, 2) for a in before]
    per_token = nats_per_token(before)
    assert per_token["value"] == pytest.approx(sum(a.nats for a in before) / 400)
    assert per_token["low"] < per_token["value"] < per_token["high"]
    difference = nats_difference(before, after)
    assert difference["value"] == pytest.approx(0.1)
    assert difference["high"] - difference["low"] < 1e-6  # every row rose alike
