"""A task as data: the schema of the YAML files in `configs/tasks` and `configs/corpora`."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeprune.data.jsonl import read_jsonl
from edgeprune.support.errors import InputError, unknown
from edgeprune.support.resources import read_yaml, shipped

Kind = Literal["multiple_choice", "yes_no", "short_answer", "text", "tool_call"]
YES_NO = ["no", "yes"]
LABELLED = ("multiple_choice", "yes_no")
# Before a request, for models without a chat template.
_LISTED = "{% for tool in tools %}{{ tool.function | tojson }}\n{% endfor %}\n"


class Source(BaseModel):
    """One place rows may come from.

    ``calibration`` and ``evaluation`` name files (local, shipped with edgeprune, in a package) or
    hub splits. Where both are the same, rows are split by a stable hash of `Task.split_by`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "hub", "shipped", "package"]
    name: str = Field("", description="hub data set or Python distribution")
    config: list[str] = Field(default_factory=list, description="hub configurations, all joined")
    calibration: list[str]
    evaluation: list[str]
    fields: dict[str, Any] = Field(default_factory=dict, description="row field to source column")
    evaluation_share: float = Field(0.5, gt=0, lt=1, description="share for evaluation if split")

    @field_validator("config", "calibration", "evaluation", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Preprocess(BaseModel):
    """How long inputs are cut, the same in calibration, evaluation and use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field("context", description="field of a row that is cut")
    against: str = Field("question", description="field that its sentences are held against")
    words: int = Field(..., ge=1, description="most words of it")
    patterns: tuple[str, ...] = Field(
        (), description="regular expressions; sentences with more matches are kept first"
    )

    @field_validator("patterns")
    @classmethod
    def _can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
        return value

    @property
    def how(self) -> dict[str, Any]:
        """Settings of `edgeprune.data.shorten.shorten`."""
        return {"words": self.words, "patterns": self.patterns}


class Task(BaseModel):
    """A data set for calibration and evaluation, and how it is scored.

    Attributes:
        prompt: Jinja2 template over a row's fields, for what the model reads before the answer.
        answer: Jinja2 template of one answer; it follows the prompt directly.
        metric: ``acc`` takes the choice with the highest log-likelihood, ``acc_norm`` divides
            it by the answer's characters first, ``exact_match`` compares a greedy answer (of
            choices: with the right one), ``exact_call`` the call of a function in it.
        chat: whether rows go through the model's chat template, if it has one; by default those of
            tasks whose answers are written.
        system: of such rows the system message; empty: what the template puts there.
        few_shot: number of solved calibration rows before each prompt; nothing learns from them.
        stop: texts that end a written answer.
        preprocess: how long inputs are cut.
        tools: of tool calls: functions are ``listed`` in every prompt, or ``learnt`` by training.
        split_by: field whose text decides the side of a row where one split is divided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = 1
    description: str = ""
    license: str = ""
    warning: str = ""
    kind: Kind
    prompt: str = "Question: {{ question }}\nAnswer:"
    answer: str = " {{ choice }}"
    choices: list[str] = Field(default_factory=list, description="fixed choices for every row")
    metric: Literal["acc", "acc_norm", "exact_match", "exact_call", "nats"] = "acc"
    max_answer_tokens: int = Field(32, ge=1, description="length of greedy answers at most")
    chat: bool = Field(False, description="rows go through the model's chat template")
    system: str = Field("", description="system message of rows in the chat template")
    few_shot: int = Field(0, ge=0, description="solved rows before each prompt")
    stop: list[str] = Field(["\n"], description="texts that end a written answer")
    preprocess: Preprocess | None = None
    tools: Literal["listed", "learnt"] = "listed"
    split_by: str = "question"
    sources: list[Source] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if data.get("kind") == "yes_no":
                data = {"choices": YES_NO} | data
            if data.get("kind") in LABELLED and data.get("metric") == "exact_match":
                data = {"chat": True} | data
            elif data.get("kind") == "short_answer":
                data = {"metric": "exact_match", "chat": True} | data
            elif data.get("kind") == "tool_call":
                listed = "" if data.get("tools") == "learnt" else _LISTED
                data = {
                    "metric": "exact_call",
                    "chat": True,
                    "max_answer_tokens": 128,
                    "stop": [],
                    "prompt": listed + "Request: {{ question }}\nCall:",
                } | data
            elif data.get("kind") == "text":
                data = {"metric": "nats", "prompt": "{{ text }}", "split_by": "text"} | data
        return data

    @model_validator(mode="after")
    def _metric_fits_kind(self) -> Self:
        fits = {
            "multiple_choice": ("acc", "acc_norm", "exact_match"),
            "yes_no": ("acc", "acc_norm", "exact_match"),
            "short_answer": ("exact_match", "nats"),
            "text": ("nats",),
            "tool_call": ("exact_call",),
        }[self.kind]
        if self.metric not in fits:
            raise ValueError(
                f"metric {self.metric} does not fit kind {self.kind}, expected {' or '.join(fits)}"
            )
        written = self.kind == "short_answer" or self.metric == "exact_match"
        if self.chat != (self.kind == "tool_call") and not written:
            raise ValueError(
                f"chat {self.chat} does not fit kind {self.kind} with metric {self.metric}"
            )
        if self.few_shot and self.kind == "text":
            raise ValueError("few_shot does not fit kind text: it has no answers")
        if self.preprocess and self.kind in ("text", "tool_call"):
            raise ValueError(f"preprocess does not fit kind {self.kind}: it cuts a row's context")
        return self


def open_task(name: str) -> Task:
    """Open a shipped task by name, or the user's ``.yaml`` or ``.jsonl`` file (``.gz``, ``.xz``).

    Raises:
        UsageError: no shipped task of that name.
        InputError: the file is missing or invalid.
    """
    return _open(name, "tasks", "task")


def open_corpus(name: str) -> Task:
    """Open a shipped general corpus by name, or the user's own file: a task of kind ``text``."""
    corpus = _open(name, "corpora", "general corpus")
    if corpus.kind != "text":
        raise InputError(
            f"The general corpus '{name}' is of kind {corpus.kind}, expected text.",
            "A .jsonl file needs a 'text' field in every row.",
        )
    return corpus


def _open(name: str, folder: str, kind: str) -> Task:
    path = Path(name).expanduser()
    if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz", ".json")):
        return _task_of_rows(path)
    if path.suffix in (".yaml", ".yml"):
        return _parse(path)
    known = shipped(folder)
    if name not in known:
        raise unknown(kind, name, known, "Or give the path of a .yaml or .jsonl file.")
    return _parse(known[name])


def _parse(path: Path) -> Task:
    data = read_yaml(path)
    try:
        task = Task.model_validate(data)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'task'}: {e['msg']}" for e in error.errors()]
        raise InputError(
            f"{path} is not a valid task:\n" + "\n".join(lines),
            "'edgeprune tasks medqa' prints a working example.",
        ) from None
    return _beside(task, path.parent)


def _beside(task: Task, folder: Path) -> Task:
    """Local files of a user's YAML stand beside it."""

    def absolute(names: list[str]) -> list[str]:
        return [str(folder / n) if (folder / n).exists() else n for n in names]

    sources = [
        source.model_copy(
            update={
                "calibration": absolute(source.calibration),
                "evaluation": absolute(source.evaluation),
            }
        )
        if source.kind == "local"
        else source
        for source in task.sources
    ]
    return task.model_copy(update={"sources": sources})


def _task_of_rows(path: Path) -> Task:
    """A task around a bare file of rows: its kind follows from the fields of the first row."""
    first = next(iter(read_jsonl(path)), None)
    if first is None:
        raise InputError(f"{path} has no rows. Expected one JSON object per line.")
    kind = (
        "tool_call"
        if "messages" in first and "tools" in first
        else "multiple_choice"
        if "choices" in first
        else "short_answer"
        if "answers" in first
        else "text"
        if "text" in first
        else None
    )
    if kind is None:
        raise InputError(
            f"{path}: the first row has the fields {', '.join(sorted(first))}; expected "
            "'question', 'choices' and 'answer', or 'question' and 'answers', or 'messages', "
            "'tools' and 'calls', or 'text'.",
        )
    context = "{{ context }}\n" if "context" in first else ""
    data: dict[str, Any] = {
        "name": path.name.partition(".")[0],
        "kind": kind,
        "sources": [{"kind": "local", "calibration": str(path), "evaluation": str(path)}],
    }
    if kind not in ("text", "tool_call"):
        data["split_by"] = "context" if "context" in first else "question"
        data["prompt"] = context + "Question: {{ question }}\nAnswer:"
    return Task(**data)
