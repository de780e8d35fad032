"""What all parts of a manifest are."""

from pydantic import BaseModel, ConfigDict


class Facts(BaseModel):
    """A part of a manifest: read-only, and nothing in it that this version doesn't know."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Interval(Facts):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float
