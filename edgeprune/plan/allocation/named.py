"""Allocation by the user's own map from names to sparsities."""

import re

from edgeprune.plan.allocation import Request, Zeros
from edgeprune.plan.allocation.exact import exact, most
from edgeprune.support.errors import UsageError


def by_name(
    sizes: dict[str, int], shares: tuple[tuple[str, float], ...], sparsity: float
) -> dict[str, float]:
    """Matrices whose name a pattern is found in get its sparsity; the rest share what is left.

    Args:
        sizes: weights of each matrix.
        shares: regular expressions and sparsities; the first that is found counts.
        sparsity: over all matrices.

    Raises:
        UsageError: a pattern that is no regular expression or is found nowhere, a sparsity out of
            range, or a total that can't be met.
    """
    fixed: dict[str, float] = {}
    for pattern, share in shares:
        if not 0 <= share <= most(sparsity):
            raise UsageError(
                f"allocation_map: '{pattern}' asks for sparsity {share:g}, expected 0 to "
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
            f"allocation_map: {len(fixed)} matrices are given, and the other {len(rest)} can't "
            f"make up for them: all together can have sparsities from {taken / total:.3f} to "
            f"{(taken + room) / total:.3f}, and {sparsity:g} is asked for.",
            "Change --sparsity, or the sparsities in allocation_map.",
        )
    return fixed | dict.fromkeys(rest, left / max(1, sum(rest.values())))


def _find(pattern: str, names: dict[str, int]) -> list[str]:
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UsageError(
            f"allocation_map: '{pattern}' is no regular expression: {error}."
        ) from None
    if not found:
        raise UsageError(
            f"allocation_map: no matrix has '{pattern}' in its name.",
            f"Names look like {next(iter(names))}.",
        )
    return found


def allocate(request: Request) -> Zeros:
    """As the user says."""
    shares = tuple(request.shares.items())
    raw = by_name(request.sizes, shares, request.sparsity)
    return exact(raw, request.sizes, request.sparsity)
