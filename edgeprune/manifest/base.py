"""What all parts of a manifest are, and how a file of them is read."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeprune.support.errors import InputError
from edgeprune.support.files import read_json


class Facts(BaseModel):
    """A part of a manifest: read-only, with no field that this version doesn't know, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def read_file(cls, path: Path, schema: int, hint: str) -> Self:
        """Read a file that names its schema.

        Args:
            path: a file that exists.
            schema: the number that this version reads.
            hint: how to make the file anew, for the message of an error.

        Raises:
            InputError: the file is damaged, not one of edgeprune's, or of another version.
        """
        found = read_json(path)
        if found is None:
            raise InputError(f"{path} is damaged: it is not valid JSON.", hint)
        if not isinstance(found, dict) or "schema" not in found:
            raise InputError(
                f"{path} has no schema number: it was written by an older edgeprune, or by another "
                "program.",
                hint,
            )
        if found["schema"] != schema:
            raise InputError(
                f"{path} has schema {found['schema']!r}, but this edgeprune reads {schema}: "
                "another version wrote it.",
                hint,
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path} is damaged at {where}: {first['msg']}.", hint) from None


class Interval(Facts):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Interval":
        """A figure that is known without uncertainty."""
        return cls(value=value, low=value, high=value)
