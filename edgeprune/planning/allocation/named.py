"""Allocation by the user's own map from names to sparsities."""

import re

from edgeprune.planning.allocation import Request, Zeros
from edgeprune.planning.allocation.exact import exact, most
from edgeprune.support.errors import UsageError


def by_name(
    sizes: dict[str, int], shares: tuple[tuple[str, float], ...], sparsity: float
) -> dict[str, float]:
    """Give matrices whose names match a pattern its sparsity; the rest share the remainder.

    Args:
        sizes: number of weights of each matrix.
        shares: regular expressions and sparsities; the first match counts.
        sparsity: sparsity over all matrices.

    Raises:
        UsageError: a pattern is not a regular expression or matches nothing, a sparsity is out of
            range, or the total cannot be met.
    """
    fixed: dict[str, float] = {}
    for pattern, share in shares:
        if not 0 <= share <= most(sparsity):
            raise UsageError(
                f"pruning.allocation.map: '{pattern}' sets sparsity {share:g}; expected 0 to "
                f"{most(sparsity):g}."
            )
        found = _find(pattern, sizes)
        fixed = dict.fromkeys(found, share) | fixed
    rest = {name: size for name, size in sizes.items() if name not in fixed}
    total = sum(sizes.values())
    taken = sum(share * sizes[name] for name, share in fixed.items())
    left = round(sparsity * total) - taken
    room = most(sparsity) * sum(rest.values())
    rounding = len(sizes)  # a weight of each matrix
    if not -rounding <= left <= room + rounding:
        raise UsageError(
            f"pruning.allocation.map sets {len(fixed)} matrices; the other {len(rest)} cannot "
            f"make up the difference. The total sparsity can be {taken / total:.3f} to "
            f"{(taken + room) / total:.3f}, but --sparsity is {sparsity:g}.",
            "Change --sparsity, or the sparsities in pruning.allocation.map.",
        )
    return fixed | dict.fromkeys(rest, left / max(1, sum(rest.values())))


def _find(pattern: str, names: dict[str, int]) -> list[str]:
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UsageError(
            f"pruning.allocation.map: '{pattern}' is not a regular expression: {error}."
        ) from None
    if not found:
        raise UsageError(
            f"pruning.allocation.map: no matrix name matches '{pattern}'.",
            f"Names look like {next(iter(names))}.",
        )
    return found


def allocate(request: Request) -> Zeros:
    """Allocate sparsity by the user's map."""
    shares = tuple(request.shares.items())
    raw = by_name(request.sizes, shares, request.sparsity)
    return exact(raw, request.sizes, request.sparsity)
