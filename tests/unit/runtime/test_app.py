"""What a task brings to a chat."""

import pytest

from edgeprune.cli.app import app_of
from edgeprune.runtime.llamacpp.calls import CallHandler
from edgeprune.support.errors import UsageError

TEXT = "The cohort was large. Aspirin lowered the risk of stroke. Costs were not recorded."


@pytest.fixture
def task(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"question": "q", "answers": ["a"]}\n')

    def write(more: str) -> str:
        path = tmp_path / "t.yaml"
        path.write_text(
            f"name: t\nkind: short_answer\n{more}\n"
            "sources: [{kind: local, calibration: r.jsonl, evaluation: r.jsonl}]\n"
        )
        return str(path)

    return write


def test_long_messages_are_cut_and_the_system_message_is_put_in(task):
    app = app_of(task("system: Answer in a word.\npreprocess: {words: 7}"), False)
    said = [{"role": "user", "content": f"{' '.join([TEXT] * 2)}\nDoes aspirin prevent stroke?"}]
    told = CallHandler(app)._told(said)
    assert told[0] == {"role": "system", "content": "Answer in a word."}
    assert told[1]["content"] == (
        "Aspirin lowered the risk of stroke.\nDoes aspirin prevent stroke?"
    )
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]
    assert CallHandler(app)._told(own) == own


@pytest.mark.parametrize(
    ("more", "grammar", "words"),
    [
        ("", False, "brings nothing to a chat"),
        ("system: Hi.", True, "--grammar needs functions"),
    ],
)
def test_a_task_that_brings_nothing_is_said(task, more, grammar, words):
    with pytest.raises(UsageError, match=words):
        app_of(task(more), grammar)
