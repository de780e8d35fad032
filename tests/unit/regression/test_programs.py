"""Whether a program got slower."""

import pytest

from edgeprune.regression import programs
from edgeprune.regression.compare import compare
from edgeprune.regression.measurement import MeasuredProgram
from edgeprune.regression.thresholds import Thresholds
from runtime_tests.programs import program
from tests.support.manifests import one_round, sample_measurement, samples


def in_program(said: str, decode: float, memory: int = 100) -> MeasuredProgram:
    return MeasuredProgram(
        name=said, said=said, version=said, peak_memory_bytes=memory,
        prefill=one_round(samples(900, 0.01)), decode=one_round(samples(decode, 0.01)),
    )  # fmt: skip


def measured(one, **more):
    """A build beside itself, in a program too."""
    found = sample_measurement()
    own = found.artifacts[found.own]
    beside = (own, own) if more.pop("beside", True) else ()
    return found.model_copy(update={"program": one, "beside": beside, **more})


def verdicts_of(before, after, name):
    found = compare(before, after, Thresholds())
    return {one.measure: one.verdict for one in found if name in one.measure}


def test_an_update_that_slows_is_seen_beside_the_packages_own_runtime():
    before = measured(in_program("llama-server", 100), beside=False)
    same = verdicts_of(before, measured(in_program("llama-server", 99)), "llama-server")
    assert set(same.values()) == {"held"}
    slow = verdicts_of(before, measured(in_program("llama-server", 10)), "llama-server")
    assert slow["decode, llama-server x own runtime"] == "regressed"
    assert slow["prefill, llama-server x own runtime"] == "held"


def test_two_programs_that_are_here_take_turns():
    before = measured(in_program("llama-server", 100), beside=False)
    old = in_program("llama-server", 100)
    after = measured(in_program("llama-server --no-repack", 94), program_before=old)
    found = verdicts_of(before, after, "--no-repack x llama-server")
    assert found == {
        "prefill, llama-server --no-repack x llama-server": "held",
        "decode, llama-server --no-repack x llama-server": "regressed",
    }


def test_memory_of_a_program_is_compared():
    before = measured(in_program("llama-server", 100))
    after = measured(in_program("llama-server", 100, memory=120))
    assert verdicts_of(before, after, "memory, llama")["peak memory, llama-server"] == "regressed"


def test_a_program_on_one_side_alone_cannot_be_compared():
    one, none = measured(in_program("llama-server", 100)), measured(None)
    assert verdicts_of(one, none, "llama-server") == {"llama-server": "unclear"}
    assert verdicts_of(none, one, "llama-server") == {"llama-server": "unclear"}
    assert not verdicts_of(none, none, "llama-server")
    gone = measured(in_program("llama-server", 100), beside=False)
    assert verdicts_of(one, gone, "decode, llama") == {"decode, llama-server": "unclear"}


@pytest.mark.parametrize("asked", [None, "http://127.0.0.1:1"])
def test_the_baselines_program_is_used_again(asked):
    before = measured(in_program("http://127.0.0.1:1", 100))
    found = programs.programs(asked and program(asked), before)
    assert (found.own.said, found.before) == ("http://127.0.0.1:1", None)
    other = programs.programs(program("http://127.0.0.1:2"), before)
    assert (other.own.said, other.before.said) == ("http://127.0.0.1:2", "http://127.0.0.1:1")
    gone = measured(in_program("no-such-program", 100))
    assert programs.programs(None, gone) == programs.Programs()
