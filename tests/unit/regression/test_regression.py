"""The gate: verdicts on made-up samples, baselines, limits; and on a real build."""

import itertools
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeprune.regression import baselines, limits, measure, verdicts
from edgeprune.regression.compare import compare
from edgeprune.regression.measurement import SCHEMA, Timed, TimedLengths
from edgeprune.regression.programs import Programs
from edgeprune.regression.thresholds import Thresholds
from edgeprune.support.errors import InputError, UsageError
from tests.support.manifests import measured_artifact, one_round, samples
from tests.support.manifests import sample_measurement as measured


def changed(found, name: str, **values):
    """A measurement with other values of one artifact."""
    one = found.artifacts[name].model_copy(update=values)
    return found.model_copy(update={"artifacts": {**found.artifacts, name: one}})


def slowed(found, factor: float):
    """A measurement with both artifacts decoding at another speed."""
    for name, one in found.artifacts.items():
        found = changed(found, name, decode=one_round(factor * one.of("decode")))
    return found


def verdict(evidence) -> str:
    return verdicts.judge([evidence])[0].verdict


def test_a_slowdown_counts_when_it_is_large_and_real():
    before = samples(100, 0.02)

    def judged(speed: float) -> str:
        return verdict(verdicts.separate_speed("x", before, samples(speed, 0.02, seed=1), 0.05))

    assert judged(88) == "regressed"
    assert judged(99) == "held"
    assert judged(130) == "held"


def test_what_noise_hides_is_not_called_held():
    found = verdicts.separate_speed("x", samples(100, 0.3), samples(90, 0.3, seed=1), 0.05)
    (said,) = verdicts.judge([found])
    assert said.verdict == "unclear"
    assert re.search(r"about \d+|may be chance", said.sentence)
    few = verdicts.paired_speed("x", [1.0, 1.01], 0.05)
    assert verdict(few) == "unclear"
    assert "too few" in few.lacking


def lucky(chance, factor: float, processes: int, luck: float, phase: float) -> np.ndarray:
    """Processes with luck of their own, at moments of a machine that change for all alike."""
    return phase * factor * np.exp(chance.normal(0, luck, processes))


def test_a_check_errs_as_rarely_as_it_promises():
    """Processes that differ by 2 %, moments by 30 %, looks at 5, 9 and 13 processes of each."""
    said = {factor: Counter() for factor in (1.0, 0.95, 0.9)}
    for seed in range(300):
        chance = np.random.default_rng(seed)
        phase = np.exp(chance.normal(0, 0.3, 13))
        beside = [lucky(chance, 1, 13, 0.02, phase) for _ in range(2)]
        for factor, found in said.items():
            new = lucky(chance, factor, 13, 0.02, phase)
            found[checked(new / np.sqrt(beside[0] * beside[1]))] += 1
    assert said[1.0]["regressed"] <= 15
    assert said[0.95]["held"] <= 15
    assert said[0.95]["regressed"] >= 240
    assert said[0.9]["regressed"] >= 285


def checked(ratios: np.ndarray) -> str:
    """The verdict of the first look that is clear."""
    shares = (0.0, 0.4, 0.7, 1.0)
    for before, now in pairwise(shares):
        so_far = ratios[: round(now * len(ratios))]
        found = verdict(verdicts.paired_speed("x", so_far, 0.03, verdicts.spent(before, now)))
        if found != "unclear":
            break
    return found


def test_the_errors_of_looks_add_up():
    looks = [0.0, 0.2, 0.5, 0.9, 1.0]
    assert sum(itertools.starmap(verdicts.spent, pairwise(looks))) == pytest.approx(verdicts.ERROR)


def test_ten_lines_are_no_ten_chances():
    assert verdicts.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    line = verdicts.Evidence("x", loss=0.1, worst=0.2, allowed=0.05, p=0.03, said="", lacking="")
    assert verdict(line) == "regressed"
    assert {one.verdict for one in verdicts.judge([line] * 10)} == {"unclear"}


def test_a_baseline_timed_beside_it_is_what_counts():
    beside = Timed(prefill=one_round([1200.0] * 15), decode=one_round(samples(250, 0.01)))
    after = measured(beside=(beside, beside))
    found = compare(measured(), after, Thresholds())
    assert verdict_of(found, "decode, x baseline") == "regressed"
    assert verdict_of(found, "decode, x dense") == "held"


def test_a_file_that_differs_from_itself_tells_nothing():
    one = Timed(prefill=one_round([1500.0] * 15), decode=one_round(samples(150, 0.01)))
    again = one.model_copy(update={"decode": one_round(samples(120, 0.01, seed=5))})
    found = compare(measured(), measured(beside=(one, again)), Thresholds())
    assert verdict_of(found, "decode, same file") == "unclear"
    assert verdict_of(found, "decode, x baseline") == "unclear"
    assert verdict_of(found, "prefill, same file") == "held"


def test_a_baseline_whose_artifact_is_gone_is_said():
    found = compare(measured(), measured(beside=()), Thresholds())
    assert verdict_of(found, "x baseline") == "unclear"
    assert "less than 20% can't be detected" in found[0].sentence


def test_a_slower_runtime_is_seen_though_it_slows_the_baseline_too():
    """As with EDGEPRUNE_SPARSE=0: both artifacts run as stock ones."""
    slow = one_round(samples(100.0, 0.01))
    beside = Timed(prefill=measured().artifacts["pruned"].prefill, decode=slow)
    after = changed(measured(beside=(beside, beside)), "pruned", decode=slow)
    found = compare(measured(), after, Thresholds())
    assert verdict_of(found, "decode, x baseline") == "held"
    assert verdict_of(found, "decode, x dense") == "regressed"


def test_accuracy_goes_by_the_answers_that_changed():
    right = [True] * 60 + [False] * 40
    lost = [False] * 12 + right[12:]
    assert verdict(verdicts.accuracy(right, lost, 2)) == "regressed"
    traded = [False] * 12 + [True] * 48 + [True] * 11 + [False] * 29
    assert verdict(verdicts.accuracy(right, traded, 2)) == "unclear"  # one point, -10.6 to +8.6
    assert verdict(verdicts.accuracy(right, traded, 12)) == "held"
    four = [False] * 4 + right[4:]
    assert verdict(verdicts.accuracy(right, four, 5)) == "unclear"
    assert verdict(verdicts.accuracy(right, four, 10)) == "held"
    scattered = [False] * 10 + [True] * 50 + [True] * 7 + [False] * 33
    assert verdict(verdicts.accuracy(right, scattered, 2)) == "unclear"  # p 0.31


def test_likelihood_is_compared_row_by_row():
    chance = np.random.default_rng(0)
    before = chance.gamma(4, 1, 150)
    tokens = [2] * 150
    worse = before * 1.05 + chance.normal(0, 0.05, 150)
    assert verdict(verdicts.likelihood("n", before, worse, tokens, 0.02)) == "regressed"
    assert verdict(verdicts.likelihood("n", before, worse, tokens, 0.10)) == "held"
    few = verdicts.likelihood("n", before[:2], worse[:2] * 2, tokens[:2], 0.02)
    assert verdict(few) == "unclear"
    wild = before + chance.normal(0.1, 3, 150)
    assert verdict(verdicts.likelihood("n", before, wild, tokens, 0.001)) == "unclear"


def test_answers_that_too_few_rows_were_asked_for_are_unclear():
    chance = np.random.default_rng(0)
    before, after = [True] * 15 + [False] * 5, [True] * 10 + [False] * 5 + [True] * 5
    (found,) = verdicts.judge([verdicts.accuracy(before, after, 2)])
    assert found.verdict == "unclear"
    assert "5 answers lost, 5 won of 20" in found.sentence
    needed = int(re.search(r"about ([\d,]+) would be enough", found.sentence)[1].replace(",", ""))
    times = round(1.1 * needed / 20)
    assert verdict(verdicts.accuracy(before * times, after * times, 2)) == "held"
    assert verdict(verdicts.accuracy(before * (times // 2), after * (times // 2), 2)) == "unclear"
    assert verdict(verdicts.accuracy([True] * 20, [True] * 20, 2)) == "unclear"
    assert verdict(verdicts.accuracy([True] * 200, [True] * 200, 2)) == "held"

    nats = chance.gamma(4, 1, 60)
    noisy = nats * (1.01 + chance.permutation(np.linspace(-0.5, 0.5, 60)))
    (found,) = verdicts.judge([verdicts.likelihood("n", nats, noisy, [1] * 60, 0.05)])
    assert found.verdict == "unclear"  # some -7 to +9 %
    assert re.search(
        r"too few rows to rule out a larger loss: about [\d,]+ would be", found.sentence
    )
    assert verdict(verdicts.likelihood("n", [1.0, 2.0], [1.0, 2.001], [1, 1], 0.05)) == "unclear"


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
    assert verdicts.size("file", 1000, 1020, 0.01).verdict == "regressed"
    assert verdicts.size("file", 1000, 1005, 0.01).verdict == "held"


def verdict_of(found, measure: str) -> str:
    return next(f.verdict for f in found if f.measure == measure)


def test_measurements_of_one_build_hold():
    assert {f.verdict for f in compare(measured(), measured(), Thresholds())} == {"held"}


def test_other_machines_are_compared_by_ratios_alone():
    other = slowed(measured(machine="n"), 1 / 3)
    found = compare(measured(), other, Thresholds())
    assert "decode" not in {f.measure for f in found}
    assert verdict_of(found, "decode, x dense") == "held"
    slower = 0.7 * other.artifacts["pruned"].of("decode")
    other = changed(other, "pruned", decode=one_round(slower))
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
    path = baselines.place("main", tmp_path)
    baselines.save(measured(), path)
    assert baselines.load("main", tmp_path) == baselines.load(str(path), tmp_path) == measured()
    assert baselines.names(tmp_path) == ["main"]
    with pytest.raises(UsageError, match="Unknown baseline 'mian'"):
        baselines.load("mian", tmp_path)
    with pytest.raises(UsageError, match="can't name"):
        baselines.place("../main", tmp_path)
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
    slow = changed(measured(), "pruned", decode=one_round([1.0] * 15))
    found = limits.judge(asked, slow)
    assert verdict_of(found, "decode, limit") == "regressed"
    with pytest.raises(UsageError, match="Unknown device 'laptop'"):
        limits.read_limits("laptop")
    (tmp_path / "odd.yaml").write_text("min_decode: -1\n")
    with pytest.raises(InputError, match="min_decode"):
        limits.read_limits(str(tmp_path / "odd.yaml"))


def test_a_baseline_runs_with_its_own_threads(monkeypatch):
    """With the build's, one thread less would slow both alike."""
    monkeypatch.setattr(measure, "contender", lambda setting, _lengths: setting)
    monkeypatch.setattr(measure, "_artifacts", lambda *_: {"pruned": Path("new")})
    asked = SimpleNamespace(prefill_tokens=8, decode_tokens=8)
    manifest = SimpleNamespace(
        results=SimpleNamespace(own="pruned"), recipe=SimpleNamespace(measurement=asked)
    )
    build = measure._Build(Path("folder"), manifest, 1, Programs())
    found = build.contenders(Path("old"), 2).values()
    assert [(str(one.path), one.threads) for one in found] == [("new", 1), ("old", 2), ("old", 2)]


def test_divergence_on_conversations_is_compared_where_both_have_it():
    before, rng = measured(), np.random.default_rng(0)
    nats, places = rng.uniform(8, 16, 24), [40] * 24

    def judged(old, new) -> dict[str, str]:
        one = changed(before, "pruned", chat_nats=list(old), chat_places=places[: len(old)])
        other = changed(before, "pruned", chat_nats=list(new), chat_places=places[: len(new)])
        return {f.measure: f.verdict for f in compare(one, other, Thresholds())}

    assert judged(nats, nats)["divergence on chat"] == "held"
    assert judged(nats, 1.02 * nats)["divergence on chat"] == "held"
    assert judged(nats, 1.5 * nats)["divergence on chat"] == "regressed"
    assert judged(nats, nats[:9])["chat"] == "unclear"
    assert not [name for name in judged([], nats) if "chat" in name]
