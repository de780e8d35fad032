"""Limits that a build must hold; what is not set is reported and not enforced.

A loss holds its limit if the worse end of its interval does: with the recipe's ``confidence``,
other rows and rounds would show no more. Each is asked whether it is within its limit, so that NaN
is within none.
"""

from typing import Any

from edgeprune.recipe.schema import Recipe


def failures(recipe: Recipe, results: dict[str, Any]) -> list[str]:
    """One line for each gate that did not hold; empty if all did or none was set.

    Args:
        recipe: holds the limits.
        results: what `runtime_tests.run` returned.
    """
    change = results.get("difference")
    limits = (
        recipe.gates.max_accuracy_loss,
        recipe.gates.max_nats_increase,
        recipe.gates.min_decode_speed,
    )
    if change is None:
        set_anyway = any(limit is not None for limit in limits)
        return ["Gates can't be judged: nothing was pruned."] if set_anyway else []
    before, after = (results["artifacts"][name] for name in ("dense", "pruned"))
    found = (_accuracy(recipe, before, after), _nats(recipe, before, after),
             _speed(recipe, before, after))  # fmt: skip
    return [line for line in found if line]


def _accuracy(recipe: Recipe, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    from runtime_tests import paired

    limit = recipe.gates.max_accuracy_loss
    if limit is None:
        return None
    old, new = before["answers"]["correct"], after["answers"]["correct"]
    if old[0] is None:
        return "max_accuracy_loss can't be judged: the task has no accuracy."
    change = paired.accuracy_change(old, new, paired.one_sided(recipe.gates.confidence))
    if -change.low <= limit:
        return None
    return (
        f"Accuracy changed by {change.value:+.1f} points ({change.low:+.1f} to {change.high:+.1f}, "
        f"each end with {recipe.gates.confidence:.0%} confidence), a loss of at most {limit:g} "
        f"allowed{_more_rows(-change.value, -change.low, limit, len(old))}."
    )


def _nats(recipe: Recipe, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    from runtime_tests import paired

    limit = recipe.gates.max_nats_increase
    if limit is None:
        return None
    old, new = before["answers"]["nats"], after["answers"]["nats"]
    rise = paired.nats_rise(old, new, paired.one_sided(recipe.gates.confidence))
    if rise.high <= limit:
        return None
    return (
        f"Nats per answer token changed by {rise.value:+.1%} ({rise.low:+.1%} to {rise.high:+.1%}, "
        f"each end with {recipe.gates.confidence:.0%} confidence), a rise of at most {limit:.1%} "
        f"allowed{_more_rows(rise.value, rise.high, limit, len(old))}."
    )


def _speed(recipe: Recipe, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    from runtime_tests import paired

    limit = recipe.gates.min_decode_speed
    if limit is None:
        return None
    old, new = before["decode"]["samples"], after["decode"]["samples"]
    ratio = paired.speed_ratio(old, new, paired.one_sided(recipe.gates.confidence))
    if ratio.low >= limit:
        return None
    return (
        f"Decode runs at {ratio.value:.2f}x the dense model ({ratio.low:.2f}x to {ratio.high:.2f}x "
        f"in {len(old)} rounds, each end with {recipe.gates.confidence:.0%} confidence), at least "
        f"{limit:g}x required."
    )


def _more_rows(value: float, worse: float, allowed: float, rows: int) -> str:
    """What would show that a loss is within its limit, if it is on the rows that were asked."""
    from runtime_tests.paired import rows_needed

    needed = rows_needed(value, worse, allowed, rows)
    return f": {rows} rows can't show it, about {needed:,} would (eval_rows)" if needed else ""
