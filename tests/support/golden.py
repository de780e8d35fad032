"""Figures that must not change unless a version is raised."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


def check(path: Path, name: str, version: int, found: dict[str, Any]) -> None:
    """Hold what was computed against a file beside the test; ``GOLDEN=write`` writes it anew.

    Args:
        path: the file: ``{"version": ..., "values": {...}}``.
        name: of the version, as a developer finds it.
        version: as it stands in the code.
        found: numbers are compared to 0.1 %, everything else exactly.
    """
    if os.environ.get("GOLDEN") == "write":
        path.write_text(json.dumps({"version": version, "values": found}, indent=1) + "\n")
    kept = json.loads(path.read_text())
    if kept["version"] != version:
        pytest.fail(f"{name} was raised: write {path.name} anew with GOLDEN=write pytest.")
    assert found.keys() == kept["values"].keys(), f"write {path.name} anew with GOLDEN=write pytest"
    for key, value in found.items():
        expected = kept["values"][key]
        same = value == expected
        if isinstance(value, dict):
            same = value["mask"] == expected["mask"] and value["sums"] == pytest.approx(
                expected["sums"], rel=1e-3, abs=1e-4
            )
        assert same, f"{key} gives something else than before: raise {name}, or restore it"
