"""Limits that a build must hold; what is not set is reported and not enforced."""

from typing import Any

from edgeprune.recipe import Recipe


def failures(recipe: Recipe, results: dict[str, Any]) -> list[str]:
    """One line for each gate that did not hold; empty if all did or none was set.

    Each asks whether a figure is within its limit: NaN is within none.

    Args:
        recipe: holds the limits.
        results: what `runtime_tests.run` returned.
    """
    change = results.get("difference")
    limits = (recipe.max_accuracy_loss, recipe.max_nats_increase, recipe.min_decode_speed)
    if change is None:
        set_anyway = any(limit is not None for limit in limits)
        return ["Gates can't be judged: nothing was pruned."] if set_anyway else []
    lines = []
    loss = change["accuracy_points"]
    if recipe.max_accuracy_loss is not None:
        if loss is None:
            lines.append("max_accuracy_loss can't be judged: the task has no accuracy.")
        elif not -loss <= recipe.max_accuracy_loss:
            lines.append(
                f"Accuracy fell by {-loss:.1f} points, at most {recipe.max_accuracy_loss:g} "
                "allowed."
            )
    before = results["artifacts"]["dense"]["nats_per_answer_token"]["value"]
    rise = change["nats_per_answer_token"]["value"] / before
    if recipe.max_nats_increase is not None and not rise <= recipe.max_nats_increase:
        lines.append(
            f"Nats per answer token rose by {rise:.1%}, at most {recipe.max_nats_increase:.1%} "
            "allowed."
        )
    speed = change["decode_speed"]
    if recipe.min_decode_speed is not None and not speed >= recipe.min_decode_speed:
        lines.append(
            f"Decode runs at {speed:.2f}x the dense model, at least {recipe.min_decode_speed:g}x "
            "required."
        )
    return lines
