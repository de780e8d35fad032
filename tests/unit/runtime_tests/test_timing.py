"""Fresh processes take turns in a balanced order."""

import contextlib
import random
from collections import Counter
from contextlib import contextmanager
from itertools import islice, pairwise

import numpy as np
import pytest

from runtime_tests import timing
from runtime_tests.order import rounds
from runtime_tests.paired import by_process, speed_ratio
from runtime_tests.timing import Contender, blocks


@pytest.mark.parametrize("count", range(2, 11))
def test_everyone_follows_everyone_once(count):
    order = list(islice(rounds(count, random.Random(count)), count - 1))
    assert all(sorted(one) == list(range(count)) for one in order)
    runs = [contender for one in order for contender in one]
    steps = Counter(pairwise([*runs, runs[0]]))
    assert len(steps) == count * (count - 1)
    assert all(before != after for before, after in steps)


@pytest.mark.parametrize("count", [1, 12])
def test_alone_or_in_a_crowd_everyone_runs_in_every_round(count):
    for one in islice(rounds(count, random.Random(0)), 5):
        assert sorted(one) == list(range(count))


class Process:
    """A process with luck of its own, which keeps its number of runs."""

    def __init__(self, luck: float):
        self.luck, self.runs, self.warm_ups = luck, 0, 0


def contender(speed: float, made: list[Process], chance: random.Random) -> Contender:
    @contextmanager
    def start():
        made.append(Process(chance.gauss(1, 0.1)))
        yield made[-1]

    def run(process):
        process.runs += 1
        return {"decode": speed * process.luck * chance.gauss(1, 0.001)}

    def warm_up(process):
        process.warm_ups += 1
        return 1 + 1 / process.warm_ups  # ever nearer to one second

    return Contender(start, (run,), warm_up, lambda process: {"runs": process.runs})


def timed(processes: int, runs: int, speeds=(100.0, 90.0)):
    chance, made, steps = random.Random(0), [], []
    contenders = {str(speed): contender(speed, made, chance) for speed in speeds}
    *_, found = islice(blocks(contenders, runs, lambda: steps.append(1)), processes)
    return found.samples, made, steps


def test_runs_are_nested_in_fresh_processes():
    samples, made, steps = timed(processes=3, runs=4)
    assert [process.runs for process in made] == [4] * 6
    assert len(steps) == 24
    assert {len(one) for one in samples["100.0"]["decode"]} == {4}
    assert samples["90.0"]["runs"] == [[4]] * 3
    assert {process.warm_ups for process in made} == {5}  # 1 + 1/5 is within 5 % of 1 + 1/4


def test_the_interval_is_of_processes_not_of_runs():
    """Of runs alone, which agree to 0.1 %, it would be sure of any process's luck."""
    holds = 0
    for seed in range(100):
        chance = random.Random(seed)
        contenders = {name: contender(100.0, [], chance) for name in "ab"}
        *_, found = islice(blocks(contenders, 5, lambda: None), 6)
        ratio = speed_ratio(found.samples["a"]["decode"], found.samples["b"]["decode"], 0.95)
        holds += ratio.low <= 1 <= ratio.high
    assert 88 <= holds <= 100
    with pytest.raises(ValueError, match="two processes"):
        speed_ratio([[1.0, 2.0]], [[1.0, 2.0]], 0.95)


def test_a_slow_moment_slows_all_alike():
    """A machine that halves its speed in the middle of a block."""
    moments = np.array([1.0, 1.0, 0.5])
    fast, slow = [(100 * moments).tolist()] * 2, [(90 * moments).tolist()] * 2
    assert by_process(fast)[0] == pytest.approx(100 * 0.5 ** (1 / 3))
    assert speed_ratio(fast, slow, 0.95).value == pytest.approx(0.9)


def test_runs_that_lost_the_processor_are_made_again(monkeypatch):
    """Another machine takes it from every other run."""
    clock, stolen, runs = iter(np.arange(1e6)), [0.0], []

    def run(_process):
        runs.append(len(runs))
        stolen[0] += 0.9 if len(runs) % 2 else 0.0
        return {"decode": float(len(runs))}

    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing.psutil, "cpu_count", lambda: 1)
    monkeypatch.setattr(timing, "_stolen", lambda: stolen[0])
    one = Contender(contextlib.nullcontext, (run,), lambda _: 1.0)
    found = next(blocks({"a": one}, 5, lambda: None))
    assert found.samples["a"]["decode"] == [[2.0, 4.0, 6.0, 8.0, 10.0]]
    assert found.repeated == 5
    assert found.stolen == pytest.approx(4.5)
