"""Limits that a build must meet; those not set are reported but not enforced.

A loss is within its limit if the worse end of its interval is: with the recipe's ``confidence``,
other rows and processes would show no larger loss. NaN fails every gate.
"""

from collections.abc import Iterator
from typing import Any

from edgeprune.recipe.schema import Recipe


def failures(recipe: Recipe, results: dict[str, Any]) -> list[str]:
    """Return one line for each failed gate; empty if all held or none was set.

    Args:
        recipe: recipe with the limits.
        results: what `runtime_tests.run` returned.
    """
    change = results.get("difference")
    if change is None:
        unchecked = "The gates cannot be checked: nothing was pruned."
        return [unchecked] if recipe.gates.limits else []
    before, after = (results["artifacts"][name] for name in ("dense", "pruned"))
    found = (_accuracy(recipe, before, after), _nats(recipe, before, after),
             _speed(recipe, before, after))  # fmt: skip
    return [*(line for line in found if line), *_spoken(recipe, after)]


def _spoken(recipe: Recipe, after: dict[str, Any]) -> Iterator[str]:
    """Say which limits on speech did not hold; an agreement counts by its interval's worse end."""
    gates, agreement = recipe.gates, after.get("agreement") or {}
    for name in ("max_kl", "min_same_top") if not agreement else ():
        if name in gates.limits:
            yield f"gates.{name} cannot be checked: there was too little text to compare on."
    for stream, one in agreement.items():
        nats, same = one["nats"], one["same_top"]
        if gates.max_kl is not None and not nats["high"] <= gates.max_kl:
            yield (
                f"On held-out {stream}, predictions diverge from the dense model's by "
                f"{nats['value']:.3f} nats a token ({nats['low']:.3f} to {nats['high']:.3f}); the "
                f"limit is {gates.max_kl:g}."
            )
        if gates.min_same_top is not None and not same["low"] >= gates.min_same_top:
            yield (
                f"On held-out {stream}, the most likely token is the dense model's at "
                f"{same['value']:.1%} of places ({same['low']:.1%} to {same['high']:.1%}); the "
                f"least is {gates.min_same_top:.1%}."
            )
    if gates.max_loops is not None:
        speech = after.get("speech")
        if not speech:
            yield "gates.max_loops cannot be checked: the model has no chat template."
        elif speech["loops"] > gates.max_loops:
            yield (
                f"{speech['loops']:.0%} of {len(speech['answers'])} answers repeat themselves; the "
                f"limit is {gates.max_loops:.0%}."
            )


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
