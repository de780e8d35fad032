"""Limits that a build must meet; those not set are reported but not enforced.

A loss is within its limit if the worse end of its interval is: with the recipe's ``confidence``,
other rows and processes would show no larger loss. NaN fails every gate.
"""

from typing import Any

from edgeprune.recipe.schema import Recipe


def failures(recipe: Recipe, results: dict[str, Any]) -> list[str]:
    """Return one line for each failed gate; empty if all held or none was set.

    Args:
        recipe: recipe with the limits.
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
        return ["The gates cannot be checked: nothing was pruned."] if set_anyway else []
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
        return "gates.max_accuracy_loss cannot be checked: the task has no accuracy."
    change = paired.accuracy_change(old, new, paired.one_sided(recipe.gates.confidence))
    if -change.low <= limit:
        return None
    return (
        f"Accuracy changed by {change.value:+.1f} points ({change.low:+.1f} to "
        f"{change.high:+.1f}, each end with {recipe.gates.confidence:.0%} confidence); the limit "
        f"is a loss of {limit:g} points{_more_rows(-change.value, -change.low, limit, len(old))}."
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
        f"Nats per answer token changed by {rise.value:+.1%} ({rise.low:+.1%} to "
        f"{rise.high:+.1%}, each end with {recipe.gates.confidence:.0%} confidence); the limit "
        f"is a rise of {limit:.1%}{_more_rows(rise.value, rise.high, limit, len(old))}."
    )


def _speed(recipe: Recipe, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    from runtime_tests import paired

    limit = recipe.gates.min_decode_speed
    if limit is None:
        return None
    old, new = before["decode"]["samples"], after["decode"]["samples"]
    if len(old) < 2:
        return (
            "gates.min_decode_speed cannot be checked with one process: set "
            "measurement.processes to 2 or more."
        )
    ratio = paired.speed_ratio(old, new, paired.one_sided(recipe.gates.confidence))
    if ratio.low >= limit:
        return None
    return (
        f"Decoding runs at {ratio.value:.2f}x the dense baseline's speed ({ratio.low:.2f}x to "
        f"{ratio.high:.2f}x in {len(old)} processes, each end with {recipe.gates.confidence:.0%} "
        f"confidence); the required speed is {limit:g}x."
    )


def _more_rows(value: float, worse: float, allowed: float, rows: int) -> str:
    """Say how many rows would show a loss within its limit, if it is within it on these rows."""
    from runtime_tests.paired import rows_needed

    needed = rows_needed(value, worse, allowed, rows)
    if not needed:
        return ""
    return (
        f": {rows} rows are too few to show that it holds, about {needed:,} would do "
        "(measurement.eval_rows)"
    )
