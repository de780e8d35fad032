"""The conversations of a build: given, or written by the dense model itself."""

import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import exporters
from edgeprune.data.conversations import divided, make_conversation, read_conversations
from edgeprune.data.rows import Row
from edgeprune.data.template import ChatTemplate, Message
from edgeprune.data.template_lint import problems
from edgeprune.models.packaged import PACKAGED
from edgeprune.pipeline.export import dense_baseline
from edgeprune.pipeline.job import Job
from edgeprune.pipeline.workspace import Workspace
from edgeprune.support.environment import cores
from edgeprune.support.errors import EdgepruneError
from edgeprune.support.files import kept, read_json, sha256_json
from edgeprune.support.progress import Progress
from edgeprune.support.resources import data_file

_VERSION = 1
# Conversations that are written: so many that begin with the model's own question, and so many with
# one of the task's. Questions that have no end after so many tokens are not used, answers are cut.
_OWN, _OF_TASK = 80, 24
_QUESTION, _ANSWER = 64, 192
# Questions are to differ, answers are to be the model's best.
_FREE = {"temperature": 1.0, "top_p": 0.95}
_LIKELY = {"temperature": 0.7, "top_p": 0.9}
_LEAST_WORDS = 3
_AT_ONCE = 16  # texts that are written side by side


def conversations(job: Job) -> tuple[list[Row], list[Row]]:
    """Find conversations in the model's own template; none for a model without one.

    Returns:
        Those to learn from, and held-out ones.

    Raises:
        InputError: the file of conversations can't be read.
    """
    template = None if job.recipe.data.chat == "none" else template_of(job)
    if template is None:
        return [], []
    if file := _file(job):
        return divided(read_conversations(file))
    raw = kept("conversations", sha256_json(key(job)), lambda: _written(job, template))
    return divided(make_conversation(messages) for messages in raw)


def template_problems(job: Job) -> list[str]:
    """List what in the model's chat template goes wrong in small engines."""
    template = template_of(job)
    if template is None:
        return []
    ends = {job.tokenizer.eos_token_id}
    for file in ("generation_config.json", "config.json"):
        named = (read_json(job.checkpoint.folder / file) or {}).get("eos_token_id")
        ends |= set(named) if isinstance(named, list) else {named}
    return problems(template, ends - {None})


def shipped_with(model: str) -> Path | None:
    """Find what a packaged model has written earlier, as `auto` would have it write again."""
    name = PACKAGED[model].conversations if model in PACKAGED else ""
    return data_file(name) if name else None


def described(job: Job) -> str:
    """Say in words which conversations a build has learnt from; empty if from none."""
    learnt, held_out = conversations(job)
    if not learnt or not job.recipe.data.chat_share:
        return ""
    asked = job.recipe.data.chat
    whose = "written by the dense model" if asked == "auto" else f"from {asked}"
    return (
        f"{len(learnt)} {whose}, {job.recipe.data.chat_share:.0%} of the general stream; "
        f"{len(held_out)} others held out to measure on"
    )


def key(job: Job) -> list[Any]:
    """Return what conversations depend on, for hashes.

    Raises:
        InputError: the file of conversations can't be read.
    """
    asked = job.recipe.data.chat
    if asked != "none" and (file := _file(job)):
        return [row.id for row in read_conversations(file)]
    return [asked, _VERSION, job.checkpoint.sha256, job.data.task.calibration_hash]


def template_of(job: Job) -> ChatTemplate | None:
    """Return the model's chat template."""
    return ChatTemplate.of(job.tokenizer)


def _written(job: Job, template: ChatTemplate) -> list[list[Message]]:
    """Let the dense model write, in llama.cpp; nothing where that can't run it."""
    rows = list(job.data.task.split.calibration)
    random.Random(0).shuffle(rows)
    given = [str(row.fields["question"]) for row in rows if "question" in row.fields]
    try:
        with TemporaryDirectory() as folder:
            artifact = _artifact(job, Path(folder))
            return written(artifact, template, given[:_OF_TASK], job.run.progress)
    except EdgepruneError as error:
        job.run.progress.note(f"No conversations are written, general text stands alone: {error}")
        return []


def written(
    artifact: Path,
    template: ChatTemplate,
    questions: list[str],
    progress: Progress,
    own: int = _OWN,
) -> list[list[Message]]:
    """Let a model write both sides of conversations, and answer questions.

    Args:
        artifact: a file of the model that `runtime_tests` opens.
        template: the model's chat template.
        questions: what it answers beside its own questions.
        progress: receives progress by turns.
        own: number of conversations that begin with the model's own question.

    Returns:
        Messages of a user and of the assistant, without questions that have no end and turns that
        say the same again and again.
    """
    from runtime_tests.child import start
    from runtime_tests.speech import loops

    def good(one: dict[str, Any]) -> bool:
        text = one["text"].strip()
        return len(text.split()) >= _LEAST_WORDS and not loops(text)

    total = 2 * own + len(questions)
    with start(artifact, cores()) as child, progress.stage("write conversations", total) as stage:

        def write(prompts: list[list[int]], most: int, how: dict[str, float]) -> list[Any]:
            found = []
            for place in range(0, len(prompts), _AT_ONCE):
                some = prompts[place : place + _AT_ONCE]
                found += child.call("write", prompts=some, max_tokens=most, seed=place, **how)
                stage.advance(len(some))
            return found

        opened = write([template.empty_user_turn()] * own, _QUESTION, _FREE)
        asked = list(
            dict.fromkeys(one["text"].strip() for one in opened if one["ended"] and good(one))
        )
        stage.advance(own - len(asked))
        turns = [[{"role": "user", "content": text}] for text in [*asked, *questions]]
        answers = write([template.prompt(one) for one in turns], _ANSWER, _LIKELY)
    return [
        [*turn, _answer(answer)]
        for turn, answer in zip(turns, answers, strict=True)
        if good(answer)
    ]


def _answer(found: dict[str, Any]) -> Message:
    """Make the assistant's message; its end is not learnt if it was only cut there."""
    cut = {} if found["ended"] else {"cut": True}
    return {"role": "assistant", "content": found["text"].strip(), **cut}


def _file(job: Job) -> Path | None:
    """Find the file that conversations stand in: a given one, or one shipped with the model."""
    asked = job.recipe.data.chat
    return shipped_with(job.checkpoint.source) if asked == "auto" else Path(asked)


def _artifact(job: Job, folder: Path) -> Path:
    """Find a GGUF file of the dense model, or write one."""
    if job.checkpoint.gguf:
        return job.checkpoint.gguf
    gguf = exporters.get("gguf")
    plain = {"artifact.target": "gguf", "artifact.type": gguf.default_type}
    run = Workspace(folder, job.run.progress)
    return folder / dense_baseline(replace(job.changed(plain), exporter=gguf, run=run))["file"]
