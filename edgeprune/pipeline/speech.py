"""What a build's models are asked, to show how they still speak."""

from typing import TYPE_CHECKING, Any

from edgeprune.data.template import ChatTemplate
from edgeprune.models.opening import opening
from edgeprune.pipeline.conversations import conversations
from edgeprune.pipeline.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime_tests.speech import Reading, Speech

# Windows of text, and in each every so many tokens; held-out conversations, and places in each.
_WINDOWS, _LENGTH, _EVERY = 8, 256, 4
_TALKS, _PLACES = 24, 40
_LEAST = 16  # of a conversation's own tokens
_PROMPTS, _ANSWER = 30, 96
_LONGEST = 1024  # tokens of a conversation or a prompt: what every runtime reads at once


def speech(job: Job) -> "Speech":
    """Choose text and held-out conversations to compare predictions on, and turns to answer."""
    from runtime_tests.speech import Prompt, Speech

    template = ChatTemplate.of(job.tokenizer)
    readings = {"text": list(_of_text(job.tokenizer, job.data.general_text))}
    talks = [row.fields["messages"] for row in conversations(job)[1]] if template else []
    prompts: list[Prompt] = []
    if template and talks:
        readings["chat"] = list(_of_talks(template, talks[:_TALKS]))
        asked = [talk[:1] for talk in talks if talk[0]["role"] == "user"]
        made = [Prompt(str(turn["content"]), template.prompt([turn])) for (turn,) in asked]
        prompts = [one for one in made if len(one.ids) <= _LONGEST][:_PROMPTS]
    filled = {name: rows for name, rows in readings.items() if rows}
    return Speech(filled, prompts, _ANSWER)


def _of_text(tokenizer: Any, text: str) -> "Iterator[Reading]":
    from runtime_tests.speech import Reading

    start = opening(lambda part, special: tokenizer(part, add_special_tokens=special).input_ids)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    room = _LENGTH - len(start)
    for window in range(min(_WINDOWS, len(ids) // room)):
        yield Reading(
            [*start, *ids[window * room : (window + 1) * room]],
            list(range(_EVERY - 1, _LENGTH - 1, _EVERY)),
        )


def _of_talks(template: ChatTemplate, talks: list[Any]) -> "Iterator[Reading]":
    """Predictions of what the assistant says, each turn's first tokens."""
    from runtime_tests.speech import Reading

    for messages in talks:
        ids, own = template.conversation(messages)
        places = [place for place in range(len(ids) - 1) if own[place + 1]][:_PLACES]
        if len(places) >= _LEAST and places[-1] < _LONGEST:
            yield Reading(ids[: places[-1] + 1], places)
