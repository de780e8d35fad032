"""What is seen of answers: loops, copies, agreement."""

import pytest

from runtime_tests.runners.inputs import Writing
from runtime_tests.speech import Prompt, Reading, _speech, _summary, copies, loops

PROSE = (
    "Aspirin lowers fever and relieves mild pain. It also thins the blood, so that people who "
    "bleed easily should ask a doctor before they take it for more than a few days."
)


@pytest.mark.parametrize(("text", "expected"), [
    (PROSE, False), ("1. anemia " * 12, True), ("", False), ("no no no no", False),
    (PROSE + " " + PROSE + " " + PROSE, True), ("it is so " * 3, False),
])  # fmt: skip
def test_loops(text, expected):
    assert loops(text) == expected


def test_an_answer_that_says_its_prompt_again_is_a_copy():
    assert copies("what is aspirin used for today", "Tell me: What is aspirin used for today")
    assert not copies(PROSE, "What is aspirin for?")
    assert not copies("Yes.", "Is it so, yes or no?")


def test_shares_of_answers():
    prompts = [Prompt("What is aspirin used for today?", [1]), Prompt("Hello", [2])]
    dense = [{"text": PROSE, "tokens": [1, 2, 3], "ended": True},
             {"text": "Hi.", "tokens": [7], "ended": True}]  # fmt: skip
    own = [{"text": "what is aspirin used for today?", "tokens": [1, 2, 4], "ended": True},
           {"text": "no, " * 40, "tokens": [5], "ended": False}]  # fmt: skip
    found = _speech(prompts, own, dense)
    assert (found["loops"], found["copies"], found["ended"]) == (0.5, 0.5, 0.5)
    assert found["agreed_tokens"] == 1.0
    assert _speech(prompts, dense, dense)["agreed_tokens"] == 2.0


def test_means_are_over_places_and_intervals_over_sequences():
    readings = [Reading([1] * 9, [0, 1, 2]), Reading([1] * 9, [0])]
    found = _summary(readings, [0.0, 0.0, 0.0, 4.0], [True, True, True, False])
    assert found["nats"]["value"] == 1.0
    assert found["same_top"]["value"] == 0.75
    assert found["nats"]["low"] == 0.0
    assert found["nats"]["high"] == 4.0
    assert found["places"] == 4


def test_a_nucleus_leaves_the_unlikely_out():
    logits = [0.0, 5.0, 4.9, -3.0]
    drawn = {Writing([1], 9, seed, 1.0, 0.9).next(_array(logits)) for seed in range(60)}
    assert drawn == {1, 2}
    assert Writing([1], 9).next(_array(logits)) == 1


def _array(values):
    import numpy as np

    return np.array(values, np.float32)
