"""The gate: verdicts on made-up samples, baselines, limits; and on a real build."""

import json
import re

import numpy as np
import pytest

from edgeprune.regression import baselines, limits, verdicts
from edgeprune.regression.compare import Thresholds, compare
from edgeprune.regression.measurement import SCHEMA, Timed, TimedLengths
from edgeprune.support.errors import InputError, UsageError
from tests.support.manifests import measured_artifact, samples
from tests.support.manifests import sample_measurement as measured


def changed(found, name: str, **values):
    """A measurement with other values of one artifact."""
    one = found.artifacts[name].model_copy(update=values)
    return found.model_copy(update={"artifacts": {**found.artifacts, name: one}})


def slowed(found, factor: float):
    """A measurement with both artifacts decoding at another speed."""
    for name, one in found.artifacts.items():
        found = changed(found, name, decode=[factor * speed for speed in one.decode])
    return found


def test_a_slowdown_counts_when_it_is_large_and_real():
    before = samples(100, 0.02)
    assert verdicts.speed("x", before, samples(88, 0.02, seed=1), 0.05).verdict == "regressed"
    assert verdicts.speed("x", before, samples(98, 0.02, seed=1), 0.05).verdict == "held"
    assert verdicts.speed("x", before, samples(130, 0.02, seed=1), 0.05).verdict == "held"


def test_what_noise_hides_is_not_called_held():
    before = samples(100, 0.3)
    found = verdicts.speed("x", before, samples(90, 0.3, seed=1), 0.05)
    assert found.verdict == "unclear"
    assert "chance" in found.sentence or "noisy" in found.sentence
    few = verdicts.speed("x", samples(100, 0.01, 4), samples(100, 0.01, 4, seed=1), 0.05)
    assert few.verdict == "unclear"
    assert "too few" in few.sentence


def test_false_alarms_are_rare_and_ten_percent_is_seen():
    """On ratios that scatter by 3 %, as they do on a shared machine."""
    alarms = misses = 0
    for seed in range(200):
        before = samples(1.5, 0.03, seed=3 * seed)
        same = verdicts.speed("x", before, samples(1.5, 0.03, seed=3 * seed + 1), 0.05)
        worse = verdicts.speed("x", before, samples(1.35, 0.03, seed=3 * seed + 2), 0.05)
        alarms += same.verdict == "regressed"
        misses += worse.verdict != "regressed"
    assert alarms <= 2
    assert misses <= 10


def test_rounds_that_are_slow_for_both_do_not_count():
    """A machine that is a third slower half of the time, as shared ones are."""
    alarms = misses = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        state = np.where(np.arange(15) < chance.integers(16), 1.0, 0.68)
        before, after = (state * chance.normal(1500, 45, 15) for _ in range(2))
        same = verdicts.paired_speed("x", before, after, 0.05)
        worse = verdicts.paired_speed("x", before, 0.9 * after, 0.05)
        alarms += same.verdict == "regressed"
        misses += worse.verdict != "regressed"
    assert alarms <= 2
    assert misses <= 10
    few = verdicts.paired_speed("x", [1.0] * 5, [0.5] * 5, 0.05)
    assert few.verdict == "unclear"
    assert "too few rounds" in few.sentence
    assert verdicts.paired_speed("x", [2.0] * 15, [2.0] * 15, 0.05).verdict == "held"


def test_a_baseline_timed_in_the_same_rounds_is_what_counts():
    after = measured(baseline_now=Timed(prefill=[1200.0] * 15, decode=[250.0] * 15))
    found = compare(measured(), after, Thresholds())
    assert verdict_of(found, "decode, x baseline") == "regressed"
    assert verdict_of(found, "decode, x dense") == "held"


def test_a_baseline_whose_artifact_is_gone_is_said():
    found = compare(measured(), measured(baseline_now=None), Thresholds())
    assert verdict_of(found, "x baseline") == "unclear"
    assert "less than 20% can't be detected" in found[0].sentence


def test_a_slower_runtime_is_seen_though_it_slows_the_baseline_too():
    """As with EDGEPRUNE_SPARSE=0: both artifacts run as stock ones."""
    slow = [100.0] * 15
    beside = Timed(prefill=[1500.0] * 15, decode=slow)
    after = changed(measured(baseline_now=beside), "pruned", decode=slow)
    found = compare(measured(), after, Thresholds())
    assert verdict_of(found, "decode, x baseline") == "held"
    assert verdict_of(found, "decode, x dense") == "regressed"


def test_accuracy_goes_by_the_answers_that_changed():
    right = [True] * 60 + [False] * 40
    lost = [False] * 12 + right[12:]
    assert verdicts.accuracy(right, lost, 2).verdict == "regressed"
    traded = [False] * 12 + [True] * 48 + [True] * 11 + [False] * 29
    assert verdicts.accuracy(right, traded, 2).verdict == "unclear"  # one point, -10.6 to +8.6
    assert verdicts.accuracy(right, traded, 12).verdict == "held"
    four = [False] * 4 + right[4:]
    assert verdicts.accuracy(right, four, 5).verdict == "unclear"
    assert verdicts.accuracy(right, four, 10).verdict == "held"
    scattered = [False] * 10 + [True] * 50 + [True] * 7 + [False] * 33
    assert verdicts.accuracy(right, scattered, 2).verdict == "unclear"  # p 0.31


def test_likelihood_is_compared_row_by_row():
    chance = np.random.default_rng(0)
    before = chance.gamma(4, 1, 150)
    tokens = [2] * 150
    assert verdicts.likelihood("n", before, before, tokens, 0.02).sentence.startswith("identical")
    worse = before * 1.05 + chance.normal(0, 0.05, 150)
    assert verdicts.likelihood("n", before, worse, tokens, 0.02).verdict == "regressed"
    assert verdicts.likelihood("n", before, worse, tokens, 0.10).verdict == "held"
    few = verdicts.likelihood("n", before[:1], worse[:1] * 2, tokens[:1], 0.02)
    assert few.verdict == "unclear"
    wild = before + chance.normal(0.1, 3, 150)
    assert verdicts.likelihood("n", before, wild, tokens, 0.001).verdict == "unclear"


def test_answers_that_too_few_rows_were_asked_for_are_unclear():
    chance = np.random.default_rng(0)
    before, after = [True] * 15 + [False] * 5, [True] * 10 + [False] * 5 + [True] * 5
    found = verdicts.accuracy(before, after, 2)
    assert found.verdict == "unclear"
    assert "5 answers lost, 5 won of 20" in found.sentence
    needed = int(re.search(r"about ([\d,]+) would be enough", found.sentence)[1].replace(",", ""))
    times = round(1.1 * needed / 20)
    assert verdicts.accuracy(before * times, after * times, 2).verdict == "held"
    assert verdicts.accuracy(before * (times // 2), after * (times // 2), 2).verdict == "unclear"
    assert verdicts.accuracy([True] * 20, [True] * 20, 2).verdict == "unclear"
    assert verdicts.accuracy([True] * 200, [True] * 200, 2).verdict == "held"

    nats = chance.gamma(4, 1, 60)
    noisy = nats * (1.01 + chance.permutation(np.linspace(-0.5, 0.5, 60)))
    found = verdicts.likelihood("n", nats, noisy, [1] * 60, 0.05)
    assert found.verdict == "unclear"  # some -7 to +9 %
    assert re.search(
        r"too few rows to rule out a larger loss: about [\d,]+ would be", found.sentence
    )
    assert verdicts.likelihood("n", [1.0, 2.0], [1.0, 2.001], [1, 1], 0.05).verdict == "unclear"


def test_what_answers_every_row_as_before_held():
    artifacts = {
        "dense": measured_artifact(100, 1, rows=8),
        "pruned": measured_artifact(150, 3, rows=8),
    }
    few = measured(artifacts=artifacts)
    assert verdict_of(compare(few, few, Thresholds()), "accuracy") == "held"
    answers = few.artifacts["pruned"].answers
    moved = answers.model_copy(update={"nats": [1.01, *answers.nats[1:]]})
    other = changed(few, "pruned", answers=moved)
    assert verdict_of(compare(few, other, Thresholds()), "accuracy") == "unclear"


def test_sizes_have_thresholds_alone():
    assert verdicts.size("file", 100, 102, 0.01, "B").verdict == "regressed"
    assert verdicts.size("file", 100, 100.5, 0.01, "B").verdict == "held"


def verdict_of(found, measure: str) -> str:
    return next(f.verdict for f in found if f.measure == measure)


def test_measurements_of_one_build_hold():
    assert {f.verdict for f in compare(measured(), measured(), Thresholds())} == {"held"}


def test_other_machines_are_compared_by_ratios_alone():
    other = slowed(measured(machine="n"), 1 / 3)
    found = compare(measured(), other, Thresholds())
    assert "decode" not in {f.measure for f in found}
    assert verdict_of(found, "decode, x dense") == "held"
    slower = [0.7 * speed for speed in other.artifacts["pruned"].decode]
    other = changed(other, "pruned", decode=slower)
    found = compare(measured(), other, Thresholds())
    assert verdict_of(found, "decode, x dense") == "regressed"


def test_everything_slower_is_seen_on_the_same_machine():
    slower = slowed(measured(), 0.55)
    found = compare(measured(), slower, Thresholds())
    assert verdict_of(found, "decode") == "regressed"
    assert verdict_of(found, "decode, x dense") == "held"


def test_other_questions_or_lengths_cannot_be_compared():
    answers = measured().artifacts["pruned"].answers
    asked = answers.model_copy(update={"rows": ["z", *answers.rows[1:]]})
    other = changed(measured(), "pruned", answers=asked)
    assert verdict_of(compare(measured(), other, Thresholds()), "answers") == "unclear"
    longer = compare(
        measured(), measured(lengths=TimedLengths(prefill=512, decode=64)), Thresholds()
    )
    assert verdict_of(longer, "speed") == "unclear"
    reads_other = compare(measured(), measured(general="h"), Thresholds())
    assert verdict_of(reads_other, "general text") == "unclear"


def test_baselines_are_files(tmp_path):
    path = baselines.save("main", measured(), tmp_path)
    assert baselines.load("main", tmp_path) == baselines.load(str(path), tmp_path) == measured()
    assert baselines.names(tmp_path) == ["main"]
    with pytest.raises(UsageError, match="Unknown baseline 'mian'"):
        baselines.load("mian", tmp_path)
    with pytest.raises(UsageError, match="can't name"):
        baselines.save("../main", measured(), tmp_path)
    (tmp_path / "old.json").write_text(json.dumps(measured().to_json() | {"schema": 2}))
    with pytest.raises(InputError, match=f"has schema 2, but this edgeprune reads {SCHEMA}"):
        baselines.load("old", tmp_path)
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(InputError, match="has no schema number"):
        baselines.load("odd", tmp_path)
    (tmp_path / "cut.json").write_text(path.read_text()[:-10])
    with pytest.raises(InputError, match="is damaged: it is not valid JSON"):
        baselines.load("cut", tmp_path)


def test_devices_have_limits(tmp_path):
    asked = limits.read_limits("laptop-cpu")
    assert {f.verdict for f in limits.judge(asked, measured())} == {"held"}
    slow = changed(measured(), "pruned", decode=[1.0] * 15)
    found = limits.judge(asked, slow)
    assert verdict_of(found, "decode, limit") == "regressed"
    with pytest.raises(UsageError, match="Unknown device 'laptop'"):
        limits.read_limits("laptop")
    (tmp_path / "odd.yaml").write_text("min_decode: -1\n")
    with pytest.raises(InputError, match="min_decode"):
        limits.read_limits(str(tmp_path / "odd.yaml"))
