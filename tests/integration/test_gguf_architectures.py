"""Every supported architecture: a tiny random model in llama.cpp against transformers."""

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgeprune.formats.gguf.file import open_gguf
from edgeprune.models import open_checkpoint
from edgeprune.support.errors import CheckFailed, InputError
from exporters.base import StorageRequest
from exporters.gguf import tokenizer as tokenizer_module
from exporters.gguf.hyperparameters import read_config
from exporters.gguf.rope import read_rope
from exporters.gguf.same_ids import TEXTS
from runtime_tests.runners.llamacpp import LlamaCpp
from tests.support.exporting import Counter, dense_model, export_gguf, plan_as
from tests.support.gguf import changed, logits_of
from tests.support.plans import prune_uniformly

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 10000.0,
}  # fmt: skip
LONG = {  # llama.cpp goes by its context, 4096 here, transformers by the length of the text
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6, 2.7], "rope_theta": 10000.0,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
    "rope_theta": 10000.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}

# name: (configuration class, tokenizer, settings)
CASES = {
    "llama": ("LlamaConfig", "smollm", {}),
    "llama, llama3 rope": ("LlamaConfig", "llama-bpe", {"rope_parameters": LLAMA3}),
    "llama, linear rope": ("LlamaConfig", "smollm", {"rope_parameters": LINEAR}),
    "llama, yarn rope": ("LlamaConfig", "smollm", {"rope_parameters": YARN}),
    "llama, wide heads": ("LlamaConfig", "sentencepiece", {"head_dim": 32}),
    "mistral": ("MistralConfig", "sentencepiece", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "qwen2", {"head_dim": 32}),
    "gemma3": (
        "Gemma3TextConfig", "gemma",
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16,
         "num_hidden_layers": 7},
    ),
    "phi3": ("Phi3Config", "sentencepiece", {"sliding_window": None}),
    "phi3, longrope, long": (
        "Phi3Config", "sentencepiece",
        {"rope_parameters": LONG | {"original_max_position_embeddings": 64},
         "original_max_position_embeddings": 64},
    ),
    "phi3, longrope, short": (
        "Phi3Config", "sentencepiece",
        {"rope_parameters": LONG | {"original_max_position_embeddings": 8192},
         "original_max_position_embeddings": 8192, "max_position_embeddings": 16384},
    ),
    "phi3, part of the head": ("Phi3Config", "smollm", {"partial_rotary_factor": 0.5}),
    "smollm3": ("SmolLM3Config", "smollm", {"num_hidden_layers": 5}),
}  # fmt: skip

# What transformers' GGUF loader doesn't take; the folder is needed then.
REFUSED_AS_GGUF = ("smollm3",)


@pytest.fixture(scope="module")
def tokenizers(real_checkpoint, tmp_path_factory):
    """Folders with a tokenizer of each kind."""
    root = tmp_path_factory.mktemp("tokenizers")
    smollm = json.loads((real_checkpoint.folder / "tokenizer.json").read_text())
    for name in ("llama-bpe", "qwen2"):
        regex = next(r for r, known in tokenizer_module._SPLITS.items() if known == name)
        steps = [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False},
        ]  # fmt: skip
        changed = smollm | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
        _write(root / name, json.dumps(changed))
    _write(root / "smollm", json.dumps(smollm))
    _write(root / "sentencepiece", _sentencepiece(prefix=True).to_str())
    _write(root / "gemma", _sentencepiece(prefix=False).to_str())
    return root


def _write(folder, text):
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>",
                    "eos_token": "<|im_end|>"})
    )  # fmt: skip


def _sentencepiece(prefix: bool) -> Tokenizer:
    """BPE with bytes for what it doesn't know, as Llama 2's and Gemma's tokenizer.json hold it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), *steps] if prefix else steps
    )
    tokenizer.decoder = decoders.ByteFallback()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=[], show_progress=False,
    )  # fmt: skip
    words = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator([*TEXTS, *TEXTS, "the cat is in the house and on the mat " * 9],
                                  trainer)  # fmt: skip
    tokenizer.pre_tokenizer = None
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for name in bytes_:
        vocab.setdefault(name, len(vocab))
    return Tokenizer.from_str(json.dumps(state))


@pytest.fixture(scope="module", params=CASES)
def case(request, tokenizers, tmp_path_factory):
    """A tiny random model in a folder."""
    name, tokenizer, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp("case")
    source = tokenizers / tokenizer
    size = Tokenizer.from_file(str(source / "tokenizer.json")).get_vocab_size()
    config = getattr(transformers, name)(
        **({"vocab_size": size + 3, "num_hidden_layers": 2} | SIZES | settings)
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
            if parameter.dim() == 1:
                parameter.add_(0.5)
    model.save_pretrained(folder)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_logits_equal_transformers(case, tmp_path):
    checkpoint = open_checkpoint(str(case))
    path = tmp_path / "m.gguf"
    export_gguf(dense_model(checkpoint), StorageRequest("f32"), path, None, "t", Counter())
    model = transformers.AutoModelForCausalLM.from_pretrained(
        case, dtype=torch.float32, attn_implementation="eager"
    )
    ids = [5 + (i * 37) % 250 for i in range(96)]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = logits_of(LlamaCpp(path, 2), ids)[:, : expected.shape[1]]
    error = abs(found - expected).max() / abs(expected).max()
    # float32 sums in other orders, on random weights: gemma3 comes to 2.1e-3.
    assert error < 3e-3, error
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97


def test_zeros_of_a_pruned_one_survive(case, tmp_path):
    from edgeprune.engine import Pruning
    from exporters.base import Model
    from tests.support.gguf import metadata
    from tests.support.streams import streams_of

    checkpoint = open_checkpoint(str(case))
    streams = {
        name: type(stream)(stream.tokens % 250, stream.answers)
        for name, stream in streams_of(2).items()
    }
    found = prune_uniformly(checkpoint, streams, Pruning(), tmp_path / "w")
    names = frozenset(record.name for record in found.records)
    model = Model(checkpoint.folder, found.weights(), names)
    artifact = export_gguf(
        model, StorageRequest("q8_0"), tmp_path / "m.gguf", metadata(), "t", Counter()
    )
    pruned = [tensor for tensor in artifact.tensors if tensor.pruned]
    assert len(pruned) == len(names)
    assert all(tensor.lost_zeros == 0 for tensor in pruned)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "scaling 'dynamic'",
        ),
        ("llama", {"rope_parameters": YARN | {"beta_fast": 16}}, "does not support beta_fast"),
        (
            "llama",
            {"layer_types": ["sliding_attention"] * 2},
            "sliding windows, but no sliding_window",
        ),
        ("llama", {"rope_parameters": LONG}, "rope scaling 'longrope' for llama models"),
        ("qwen2", {"rope_parameters": LLAMA3}, "rope scaling 'llama3' for qwen2 models"),
        ("phi3", {"rope_parameters": {"rope_type": "longrope"}}, "lacks long_factor, short_factor"),
        (
            "phi3",
            {"rope_parameters": LONG | {"long_factor": [1.0] * 3}},
            "one for each of 8 frequencies",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "'linear' lacks factor"),
        (
            "gemma3_text",
            {"layer_types": ["full_attention"] * 2},
            "sliding windows in a layout other than",
        ),
        ("gemma3_text", {"sliding_window_pattern": 4}, "sliding windows in a layout other than"),
        ("gemma3_text", {"query_pre_attn_scalar": 99}, "an attention scale other than"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "rotary layout other than"),
        ("smollm3", {"no_rope_layer_interval": 2}, "rotary layout other than"),
        ("llama", {"hidden_act": "gelu"}, "llama models with the activation gelu"),
        ("gemma3_text", {"hidden_activation": "gelu"}, "gemma3_text models with the activation"),
        ("gpt2", {}, "does not support the architecture 'gpt2'"),
        ("bert", {}, "does not support the architecture 'bert'"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(kind, values, message, tmp_path):
    config = {
        **SIZES, "model_type": kind, "num_hidden_layers": 2, "vocab_size": 99, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(InputError, match=message):
        read_config(tmp_path)


def test_the_context_ends_with_a_window_that_llama_cpp_does_not_know(tiny_folder, tmp_path):
    """Mistral's first models, Phi 3: up to the window it makes no difference."""
    folder = changed(tiny_folder, tmp_path, model_type="mistral", sliding_window=128)
    export_gguf(
        dense_model(open_checkpoint(str(folder))), StorageRequest("q8_0"), tmp_path / "m.gguf",
        None, "t",
        Counter(),
    )  # fmt: skip
    assert open_gguf(tmp_path / "m.gguf").get("llama.context_length") == 128


def test_tokens_without_a_row_of_the_embedding_are_left_out(tiny_folder, tmp_path):
    """Gemma 3's text models have a token for images that they can't read."""
    folder = changed(tiny_folder, tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    extra = tokenizer["added_tokens"][0] | {"id": 49152, "content": "<image>"}
    tokenizer["added_tokens"].append(extra)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    path = tmp_path / "m.gguf"
    checkpoint = open_checkpoint(str(folder))
    export_gguf(dense_model(checkpoint), StorageRequest("q8_0"), path, None, "t", Counter())
    assert len(open_gguf(path).get("tokenizer.ggml.tokens")) == 49152
    assert LlamaCpp(path, 2)


def test_other_token_ids_fail_the_export(real_checkpoint, tiny_folder, tmp_path, monkeypatch):
    """The gate, with a pre-tokenizer's name that is wrong."""
    monkeypatch.setattr(tokenizer_module, "_pre_tokenizer_name", lambda *_: "llama-bpe")
    checkpoint = open_checkpoint(str(tiny_folder))
    plan_as("gguf", dense_model(checkpoint), StorageRequest("f32"))
    with pytest.raises(CheckFailed, match="into different tokens than the checkpoint's tokenizer"):
        export_gguf(
            dense_model(checkpoint), StorageRequest("f32"), tmp_path / "m", None, "t", Counter()
        )
    assert not (tmp_path / "m").exists()


def test_a_gguf_whose_tokenizer_is_misread_is_refused_before_any_work(real_checkpoint, monkeypatch):
    """As transformers itself reads SmolLM2's: without its rule for digits."""
    plan_as("gguf", dense_model(real_checkpoint), StorageRequest("q8_0"))
    tokenizer = json.loads((real_checkpoint.folder / "tokenizer.json").read_text())
    misread = Tokenizer.from_str(json.dumps(tokenizer))
    misread.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    monkeypatch.setattr(Tokenizer, "from_file", lambda _path: misread)
    with pytest.raises(CheckFailed, match=r"\(fasting\)  105 mg/dL"):
        plan_as("gguf", dense_model(real_checkpoint), StorageRequest("q8_0"))


def test_a_gguf_goes_in_and_out_with_the_same_logits(case, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    checkpoint = open_checkpoint(str(case))
    export_gguf(dense_model(checkpoint), StorageRequest("f32"), first, None, "t", Counter())
    config, _ = read_config(case)
    scaled = read_rope(config, 16).kind != "default"
    if scaled or config["model_type"] in REFUSED_AS_GGUF:
        with pytest.raises(InputError, match=r"rope scaling|cannot read"):
            open_checkpoint(str(first))
        return
    export_gguf(
        dense_model(open_checkpoint(str(first))),
        StorageRequest("f32"),
        second,
        None,
        "t",
        Counter(),
    )
    ids = [5 + (i * 37) % 250 for i in range(64)]
    before, after = (logits_of(LlamaCpp(path, 2), ids) for path in (first, second))
    assert abs(after - before).max() <= 1e-4 * abs(before).max()
