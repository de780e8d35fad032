"""The rows of a build: those for calibration and those for evaluation."""

import random
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from edgeprune.data.overlap import refuse_overlap, texts_of
from edgeprune.data.render import Renderer
from edgeprune.data.rows import Row, normalised, share_of
from edgeprune.data.sources import Split, load_split
from edgeprune.data.streams import Stream, pack
from edgeprune.data.task import Task, open_corpus, open_task
from edgeprune.support.errors import InputError
from edgeprune.support.files import sha256_json

# Evaluation rows are the same whatever the calibration seed, so that builds can be compared.
_EVALUATION_SEED = 0
# A slice of the calibration rows that a search judges on: the more, the narrower its intervals, and
# the longer each trial.
_HELD_OUT_EVERY = 5
_HELD_OUT_MOST = 500
_HELD_OUT_LEAST = 10
_CHARACTERS_PER_TOKEN = 8  # more than any tokenizer needs


@dataclass(frozen=True)
class Source:
    """A task or corpus with its rows.

    Attributes:
        task: the task.
        split: its rows.
        shots: solved rows that stand before every prompt; they are in neither side.
    """

    task: Task
    split: Split
    shots: tuple[Row, ...] = ()

    @property
    def renderer(self) -> Renderer:
        """What makes prompts of the rows."""
        return Renderer(self.task, self.shots)

    @cached_property
    def calibration_hash(self) -> str:
        """Hash everything a token stream is made from, except the tokenizer.

        This renders every row, so the result is cached: the rows never change, and a build asks
        three times.
        """
        renderer, rows = self.renderer, self.split.calibration
        if self.task.chat:
            learnt = ["refusals"] if self.task.tools == "learnt" else []  # they are added
            return sha256_json([*learnt, *([row.id, asdict(renderer.turn(row))] for row in rows)])
        return sha256_json([[row.id, renderer.calibration_text(row)] for row in rows])

    def with_calibration(self, rows: list[Row]) -> "Source":
        """Return the same source with other calibration rows."""
        return replace(self, split=replace(self.split, calibration=rows))


@dataclass(frozen=True)
class Data:
    """Both sources of a build.

    Attributes:
        task: the task's rows.
        general: the general corpus' rows.
        evaluation: the task rows used for measurement.
        general_text: the text used to measure general perplexity.
        general_evaluation: the rows that text comes from.
        held_out: task rows removed from calibration to compare candidates on.
    """

    task: Source
    general: Source
    evaluation: list[Row]
    general_text: str
    general_evaluation: list[Row]
    held_out: list[Row] = field(default_factory=list)

    def streams(self, tokenizer: Any, samples: int, length: int, seed: int) -> dict[str, Stream]:
        """Pack both token streams."""
        return {
            name: pack(source.renderer, source.split.calibration, tokenizer, samples, length, seed)
            for name, source in (("general", self.general), ("task", self.task))
        }

    def hold_out(self) -> tuple["Data", list[Row]]:
        """Hold out every fifth task row from calibration, to compare candidate builds on.

        Rows of one text of the task's ``split_by`` stay together, and nothing that holds a question
        or passage of them is left to calibrate on, in either source.

        Returns:
            The data without the held-out rows, and the held-out rows.

        Raises:
            InputError: there are too few rows to hold any out.
        """
        task, split_by = self.task, self.task.task.split_by
        rows = sorted(task.split.calibration, key=lambda row: row.id)
        random.Random(_EVALUATION_SEED).shuffle(rows)
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(_group(row, split_by), []).append(row)
        some = list(groups.values())[::_HELD_OUT_EVERY]
        held_out = [row for group in some for row in group][:_HELD_OUT_MOST]
        if len(held_out) < _HELD_OUT_LEAST:
            raise InputError(
                f"'{task.task.name}' has {len(rows)} calibration rows with {len(groups)} "
                f"different values of '{split_by}'. --max-loss holds out one in "
                f"{_HELD_OUT_EVERY} of them and needs at least {_HELD_OUT_LEAST} held-out rows.",
                "Give more rows, or set --sparsity instead of --max-loss.",
            )
        taken = {_group(row, split_by) for row in held_out}
        apart = [row for row in task.split.calibration if _group(row, split_by) not in taken]
        return replace(
            self,
            task=task.with_calibration(_without(apart, held_out)),
            general=self.general.with_calibration(
                _without(self.general.split.calibration, held_out)
            ),
            held_out=held_out,
        ), held_out

    def refuse_overlap(self, used: dict[str, list[str]]) -> None:
        """Raise an error if calibration rows are also used for evaluation.

        Args:
            used: ids of the rows in each stream.

        Raises:
            InputError: naming the first overlap.
        """
        measured = [*self.evaluation, *self.general_evaluation, *self.held_out]
        for name, source in (("general", self.general), ("task", self.task)):
            ids = set(used[name])
            rows = [row for row in source.split.calibration if row.id in ids]
            refuse_overlap(rows, measured, f"{name} stream ({source.split.origin})")


def load_data(task: str, general: str, eval_rows: int, perplexity_tokens: int) -> Data:
    """Open a task and a general corpus, and choose the evaluation rows.

    Raises:
        UsageError: unknown names.
        InputError: rows that are unavailable or invalid.
    """
    opened, corpus = open_task(task), open_corpus(general)
    task_source = _with_shots(opened, load_split(opened))
    general_source = Source(corpus, load_split(corpus))
    evaluation = list(task_source.split.evaluation)
    random.Random(_EVALUATION_SEED).shuffle(evaluation)
    text, rows = _text(general_source, perplexity_tokens * _CHARACTERS_PER_TOKEN)
    return Data(task_source, general_source, evaluation[:eval_rows], text, rows)


def _with_shots(task: Task, split: Split) -> Source:
    """Take solved rows, the same on every machine, out of those for calibration.

    Raises:
        InputError: there are too few rows, or one of them is evaluated, too.
    """
    rows = sorted(split.calibration, key=lambda row: share_of(row.id))
    shots, rest = rows[: task.few_shot], split.calibration
    if shots:
        ids = {row.id for row in shots}
        rest = [row for row in rest if row.id not in ids]
        refuse_overlap(shots, split.evaluation, f"few_shot rows ({split.origin})")
        if not rest:
            raise InputError(
                f"{task.name}: few_shot takes {task.few_shot} of {len(rows)} calibration rows, "
                "none are left.",
                "Give more rows, or a smaller few_shot.",
            )
    return Source(task, replace(split, calibration=rest), tuple(shots))


def _text(source: Source, characters: int) -> tuple[str, list[Row]]:
    renderer = source.renderer
    parts: list[str] = []
    rows = []
    for row in source.split.evaluation:
        if sum(map(len, parts)) >= characters:
            break
        parts.append(renderer.calibration_text(row))
        rows.append(row)
    return "".join(parts), rows


def _group(row: Row, split_by: str) -> str:
    """The text by which rows belong together."""
    return normalised(str(row.fields.get(split_by, row.id)))


def _without(rows: list[Row], others: list[Row]) -> list[Row]:
    """Rows that share no question or passage with others."""
    texts = {text for row in others for text in texts_of(row)}
    return [row for row in rows if not texts_of(row) & texts]
