"""Drift over many checks."""

import numpy as np
import pytest

from edgeprune.regression import history
from edgeprune.regression.thresholds import Thresholds
from edgeprune.regression.verdicts import Finding
from edgeprune.support.errors import InputError
from tests.support.manifests import sample_measurement

DECODE = "decode, x baseline"


def checks(losses, chained: bool) -> list[history.Entry]:
    """One check a day; each build is the next one's baseline, or the first is everyone's."""
    return [
        history.Entry(
            date=f"2026-11-{day:02d}T12:00:00Z", commit=f"c{day}", build="b", artifact=f"a{day}",
            baseline=f"a{day - 1 if chained else 0}", verdict="held", losses={DECODE: loss},
        )
        for day, loss in enumerate(losses, 1)
    ]  # fmt: skip


def test_small_steps_from_baseline_to_baseline_add_up():
    chance = np.random.default_rng(0)
    steps = chance.normal(0.01, 0.003, 8)
    (found,) = history.drift(checks(steps, chained=True), Thresholds())
    assert found.measure == f"drift of {DECODE}"
    assert found.verdict == "regressed"
    assert "over 8 checks since 2026-11-01 (c1)" in found.sentence
    assert found.loss == pytest.approx(steps.sum() * 7 / 8, abs=0.01)
    assert not history.drift(checks(steps, chained=False), Thresholds())  # 1 % below one baseline


def test_a_step_is_dated():
    losses = [0.0, 0.002, -0.001, 0.001, 0.051, 0.05, 0.052, 0.053, 0.054]
    (found,) = history.drift(checks(losses, chained=False), Thresholds())
    assert "most of it from 2026-11-05 (c5) on" in found.sentence


def test_noise_is_no_drift():
    alarms = 0
    for seed in range(200):
        losses = np.random.default_rng(seed).normal(0, 0.01, 12)
        alarms += bool(history.drift(checks(losses, chained=False), Thresholds()))
    assert alarms <= 10
    assert not history.drift(checks([0.0, 0.1, 0.2, 0.3], chained=False), Thresholds())  # too few


def test_a_history_is_a_file(tmp_path):
    path, measured = tmp_path / "checks.jsonl", sample_measurement()
    assert history.read(path) == []
    found = [Finding(DECODE, "held", "as before", 0.001), Finding("file", "held", "the same")]
    one = history.entry(measured, measured, found, "held", "v1")
    assert one.losses == {DECODE: 0.001}
    history.write(path, [one])
    assert history.read(path) == [one]
    path.write_text(path.read_text() + "no entry\n")
    with pytest.raises(InputError, match="line 2 is not an entry"):
        history.read(path)
