"""A manifest and a measurement of a build that nobody made."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from edgeprune.manifest import SCHEMA, Manifest
from edgeprune.manifest.results import Answers
from edgeprune.regression.measurement import (
    Environment,
    MeasuredArtifact,
    Measurement,
    Timed,
    TimedLengths,
)

_MACHINE = {
    "processor": "A processor", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux",
    "python": "3.11.7", "versions": {"edgeprune": "0.1.0", "torch": None},
}  # fmt: skip


def sample_manifest(**changes: Any) -> Manifest:
    """A pruned and finetuned two-block model, packed.

    Args:
        changes: values by dotted names, ``__`` for a dot: ``recipe__pruning__sparsity=0.0``.
    """
    values = _values()
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = values
        for parent in parents:
            place = place[parent]
        place[last] = value
    return Manifest.model_validate(values)


def _values() -> dict[str, Any]:
    matrices = [f"model.layers.{block}.mlp.up_proj.weight" for block in (0, 1)]
    file = {"file": "model.gguf", "sha256": "a" * 64, "bytes": 2_000_000,
            "files": {"model.gguf": "a" * 64}}  # fmt: skip
    source = {"version": 1, "license": "", "source": "packaged", "sha256": "b" * 64,
              "calibration_rows": ["c1", "c2"], "evaluation_rows": ["e1", "e2", "e3"]}  # fmt: skip
    trained = {
        "steps": 40, "planned_steps": 50, "rounded": 2, "task_share": 0.25,
        "curve": [
            {"step": 0, "train": None, "held_out": 3.5, "rounded": False},
            {"step": 20, "train": 3.1, "held_out": 2.9, "rounded": False},
            {"step": 40, "train": 3.0, "held_out": 3.0, "rounded": True},
        ],
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "edgeprune": "0.1.0",
        "recipe": {"data": {"task": "medqa"}, "training": {"enabled": True}},
        "machine": _MACHINE,
        "model": {"name": "tiny", "source": "tiny", "sha256": "c" * 64, "hub_id": "",
                  "license": "", "license_name": "", "license_link": "", "languages": []},
        "data": {
            "task": source | {"name": "medqa", "hub_id": "a/medqa", "kind": "choice",
                              "description": "questions", "warning": "Not a medical device."},
            "general": source | {"name": "passages", "hub_id": ""},
        },
        "plan": [
            {"name": name, "stored_as": f"blk.{block}.ffn_up.weight", "shape": [128, 64],
             "role": "mlp", "pattern": "unstructured", "zeros": 4096,
             "storage": {"type": "Q8_0", "bytes": 8704, "grid": None}}
            for block, name in enumerate(matrices)
        ],
        "artifact": file | {"tensors": [
            {"name": f"blk.{block}.ffn_up.weight", "source": name, "type": "Q8_0",
             "shape": [128, 64], "bytes": 8704, "pruned": True, "nonzeros": 4000,
             "rounded_to_zero": 96, "lost_zeros": 0}
            for block, name in enumerate(matrices)
        ]},
        "dense_artifact": file | {"file": "work/dense-q8_0.gguf"},
        "pruned_tensors": [
            {"name": name, "shape": [128, 64], "nonzeros": 4096, "exclusive": [0.1, 0.2],
             "error": 0.05, "rounded_to_zero": None, "sparsity": 0.5}
            for name in matrices
        ],
        "rounded_with_data": 0,
        "search": None,
        "training": {"finetune": trained, "rounds": {"0.4": {"finetune": trained}}},
        "packed": {"file": "model.packed.gguf", "files": {"model.packed.gguf": "d" * 64},
                   "bytes": 2_000_000, "packed_bytes": 1_200_000, "tensors": 2,
                   "tensor_bytes": 17_408, "packed_tensor_bytes": 9_000},
        "results": {
            "metric": "acc", "rows": 3, "chance_level": 0.25, "base_near_chance": True,
            "threads": 2,
            "artifacts": {"dense": _measured(100, 1.0), "pruned": _measured(150, 1.2)},
            "difference": {
                "accuracy_points": 0.0,
                "nats_per_answer_token": {"value": 0.2, "low": 0.1, "high": 0.3},
                "decode_speed": {"value": 1.5, "low": 1.4, "high": 1.6},
                "prefill_speed": {"value": 1.5, "low": 1.4, "high": 1.6},
            },
            "gpus": {"CUDA": {"not_run": "no GPU"}},
        },
        "gates": [],
    }  # fmt: skip


def _measured(speed: float, nats: float) -> dict[str, Any]:
    timed = {"unit": "tokens/s", "sd": 1.0}
    return {
        "runtime": "llama.cpp", "version": "llama-cpp-python 0.3.36", "load_seconds": 0.1,
        "file_bytes": 2_000_000, "sparse": None, "sparse_off": "",
        "peak_memory_bytes": 9_000_000,
        "accuracy": {"value": 1 / 3, "low": 0.06, "high": 0.79, "correct": 1, "rows": 3},
        "nats_per_answer_token": {"value": nats, "low": 0.9 * nats, "high": 1.1 * nats},
        "answers": {"rows": ["e1", "e2", "e3"], "correct": [True, False, False],
                    "nats": [nats] * 3, "tokens": [1] * 3},
        "general_perplexity": {"value": 20.0, "low": 18.0, "high": 22.0, "tokens": 1022,
                               "window_nats": [1500.0, 1562.0]},
        "prefill": timed | {"median": 10 * speed, "samples": [[10 * speed]] * 2},
        "decode": timed | {"median": speed, "samples": [[speed]] * 2},
    }  # fmt: skip


def samples(center: float, spread: float, count: int = 15, seed: int = 0) -> list[float]:
    """Speeds of processes that scatter."""
    scattered: list[float] = (
        center * np.random.default_rng(seed).normal(1, spread, count)
    ).tolist()
    return scattered


def one_round(speeds: Iterable[float]) -> list[list[float]]:
    """Processes that ran one round each."""
    return [[speed] for speed in speeds]


def measured_artifact(speed: float, seed: int, rows: int = 80) -> MeasuredArtifact:
    """Half of its answers are right."""
    half = rows // 2
    return MeasuredArtifact(
        file="model.gguf", files={"model.gguf": "0"}, sha256="0", file_bytes=1000,
        peak_memory_bytes=2000,
        answers=Answers(rows=["a", "b"] * half, correct=[True, False] * half,
                        nats=[1.0, 2.0] * half, tokens=[1, 1] * half),
        general_nats=[100.0, 110.0], general_tokens=1022,
        prefill=one_round(samples(10 * speed, 0.01, seed=seed)),
        decode=one_round(samples(speed, 0.01, seed=seed + 1)),
    )  # fmt: skip


def sample_measurement(**changes: Any) -> Measurement:
    """A build whose baseline, the same build, was timed beside it."""
    pruned = measured_artifact(150, 3)
    values = {
        "build": "b", "folder": "/b", "task": "t", "general": "g", "metric": "acc", "threads": 2,
        "lengths": TimedLengths(prefill=256, decode=64), "machine": "m",
        "environment": Environment(**_MACHINE, load=0.0, governor="unknown",
            frequency_mhz=None, huge_pages="madvise", numa_nodes=1,
        ),
        "seconds": 60.0, "repeated": 0, "stolen": 0.0,
        "beside": (Timed(prefill=pruned.prefill, decode=pruned.decode),) * 2,
        "artifacts": {"dense": measured_artifact(100, 1), "pruned": pruned},
    }  # fmt: skip
    return Measurement(**(values | changes))
