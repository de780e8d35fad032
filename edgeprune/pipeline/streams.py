"""Token streams of a build: general text with conversations, and the task."""

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.data.conversations import pack_conversations
from edgeprune.data.loading import Data
from edgeprune.data.rows import Row
from edgeprune.data.tool_calls import refusal
from edgeprune.formats.chat import NO_CALL
from edgeprune.pipeline.conversations import conversations, template_of
from edgeprune.pipeline.job import Job

if TYPE_CHECKING:
    from edgeprune.data.streams import Stream

_REFUSALS = 0.1  # rows that are added to a task's, as a share of them


def streams(job: Job, samples: int | None = None) -> "dict[str, Stream]":
    """Pack both streams; of the general one, a share of the sequences are conversations.

    Args:
        job: the build.
        samples: number of sequences of each; by default the recipe's, with a note if fewer.
    """
    import torch

    most = samples or job.recipe.data.samples
    found = _packed(job, most)
    chat = found.pop("chat", None)
    if chat is not None:
        talks = min(len(chat.tokens), round(most * job.recipe.data.chat_share))
        text, chat = found["general"].part(slice(most - talks)), chat.part(slice(talks))
        # Whoever reads a few sequences reads of both.
        order = torch.tensor(_in_turns(len(text.tokens), talks))
        joined = replace(
            text,
            tokens=torch.cat([text.tokens, chat.tokens])[order],
            answers=torch.cat([text.answers, chat.answers])[order],
        )
        found["general"] = joined
    for name, stream in found.items() if samples is None else ():
        if len(stream.tokens) < most:
            job.run.progress.note(
                f"The {name} stream has only {len(stream.tokens)} of {most} sequences: there are "
                "no more rows."
            )
    return found


def training_streams(job: Job, samples: int) -> "dict[str, Stream]":
    """Pack ``general``, ``task`` and, if there are conversations, ``chat``, each by itself."""
    return _packed(job, samples)


def training_rows(job: Job) -> list[Row]:
    """Return the task's rows that are learnt from."""
    talks = conversations(job)[0] if job.recipe.data.chat_share else []
    return _with_refusals(job.data, talks).task.split.calibration


def _packed(job: Job, samples: int) -> "dict[str, Stream]":
    asked = job.recipe.data
    talks = conversations(job)[0] if asked.chat_share else []
    with job.run.progress.stage("calibrate", 2) as stage:
        tokenizer = job.tokenizer
        stage.advance()
        data = _with_refusals(job.data, talks)
        found = data.streams(tokenizer, samples, asked.length, asked.seed)
        template = template_of(job)
        if talks and template:
            chat = pack_conversations(template, talks, samples, asked.length, asked.seed)
            if len(chat.tokens):
                found["chat"] = chat
        stage.advance()
    return found


def _with_refusals(data: Data, talks: list[Row]) -> Data:
    """Let an app that learns its functions learn what they are not for: what is talked about.

    Without it, every request becomes a call, since nearly all rows are.
    """
    task = data.task
    if not talks or task.task.kind != "tool_call" or task.task.tools != "learnt":
        return data
    rows = task.split.calibration
    known = {str(row.fields["question"]).strip() for row in rows}
    asked = [str(talk.fields["messages"][0]["content"]).strip() for talk in talks]
    others = [text for text in dict.fromkeys(asked) if text not in known]
    made = [
        Row(f"refusal-{number}", refusal(text), answers=(NO_CALL,))
        for number, text in enumerate(others[: round(_REFUSALS * len(rows))])
    ]
    return replace(data, task=task.with_calibration([*rows, *made]))


def _in_turns(texts: int, talks: int) -> list[int]:
    """Order two groups so that every part of the whole holds both in their shares."""
    places = [((n + 0.5) / texts, n) for n in range(texts)]
    places += [((n + 0.5) / talks, texts + n) for n in range(talks)]
    return [number for _, number in sorted(places)]
