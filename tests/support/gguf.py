"""GGUF files in tests."""

import json

import numpy as np

from edgeprune.formats.metadata import SparsityMetadata
from runtime_tests.runners.llamacpp import LlamaCpp, _Token


def metadata(**changes) -> SparsityMetadata:
    values = {
        "pattern": "unstructured", "target": 0.5, "method": "wanda", "fusion": "fused",
        "task": "t", "recipe": {"seed": 0}, "base_sha256": "0" * 64,
    }  # fmt: skip
    return SparsityMetadata(**(values | changes))


def logits_of(runner: LlamaCpp, ids: list[int]) -> np.ndarray:
    runner._decode([_Token(token, i, (0,), True) for i, token in enumerate(ids)])
    return np.stack([runner._logits(i).copy() for i in range(len(ids))])


def changed(case_folder, tmp_path, **values):
    for file in case_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | values))
    return tmp_path
