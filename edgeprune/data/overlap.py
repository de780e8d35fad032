"""The split guard: evaluation rows must not appear in the calibration data."""

from collections.abc import Iterable

from edgeprune.data.rows import Row, normalised
from edgeprune.support.errors import InputError

# A shorter question may rightly stand in two rows ("Which of these is true?"): its choices then
# belong to it. A shorter passage, such as a shared instruction, is no evidence at all.
_MIN_TELLING_WORDS = 12


def texts_of(row: Row) -> set[str]:
    """The normalised texts by which a row is recognised."""
    question = normalised(str(row.fields.get("question", "")))
    if question and len(question.split()) < _MIN_TELLING_WORDS:
        question = " | ".join([question, *sorted(map(normalised, row.choices or row.answers))])
    passages = (
        normalised(str(row.fields[name])) for name in ("context", "text") if name in row.fields
    )
    telling = {text for text in passages if len(text.split()) >= _MIN_TELLING_WORDS}
    return telling | ({question} if question else set())


def refuse_overlap(calibration: Iterable[Row], evaluation: Iterable[Row], what: str) -> None:
    """Raise an error if a calibration row and an evaluation row hold the same text.

    Compares normalised questions and passages, not only ids.

    Raises:
        InputError: naming how many rows overlap and the first of them.
    """
    measured = {text: row.id for row in evaluation for text in texts_of(row)}
    hits = [
        (row.id, measured[text]) for row in calibration for text in texts_of(row) & set(measured)
    ]
    if hits:
        first, second = hits[0]
        raise InputError(
            f"{what}: {len(hits)} calibration texts also appear in the evaluation rows; the "
            f"first is '{first}' (evaluated as '{second}').",
            "Evaluate on other rows, or calibrate on another split: scores on rows seen in "
            "calibration are not valid.",
        )
