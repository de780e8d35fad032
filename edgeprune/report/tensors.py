"""A plan as a table: tensors of one kind, in all blocks, on one line."""

from collections.abc import Iterable

from edgeprune.manifest.manifest import PlannedTensor
from edgeprune.planning.tensors import block_of
from edgeprune.report.words import size_text

HEADINGS = ("tensors", "count", "shape", "stored as", "zeros", "size", "bits, packed")


def by_kind(rows: Iterable[PlannedTensor]) -> list[list[PlannedTensor]]:
    """Rows of one kind: name without its block's number, shape, type and pattern."""
    kinds: dict[tuple[str, ...], list[PlannedTensor]] = {}
    for row in rows:
        kind = (_name(row), str(row.shape), _stored_as(row), row.pattern)
        kinds.setdefault(kind, []).append(row)
    return list(kinds.values())


def cells(rows: list[PlannedTensor]) -> tuple[str, ...]:
    """Tensors of one kind as a line under `HEADINGS`."""
    first = rows[0]
    share = sum(row.zeros for row in rows) / sum(row.size for row in rows)
    return (
        _name(first),
        str(len(rows)),
        "x".join(map(str, first.shape)),
        _stored_as(first),
        f"{share:.0%} {first.pattern}" if share else "-",
        size_text(sum(row.storage.bytes for row in rows)),
        _packed_bits(rows),
    )


def _stored_as(row: PlannedTensor) -> str:
    return row.storage.name or row.storage.type


def _packed_bits(rows: list[PlannedTensor]) -> str:
    """Bits of a weight in a packed file; manifests of before do not say."""
    bits = [row.packed_bits * row.size for row in rows if row.packed_bits is not None]
    return f"{sum(bits) / sum(row.size for row in rows):.2f}" if len(bits) == len(rows) else ""


def _name(row: PlannedTensor) -> str:
    block = block_of(row.name)
    return row.name if block is None else row.name.replace(f".{block}.", ".*.", 1)
