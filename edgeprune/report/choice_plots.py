"""Plots of how storages were chosen."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from edgeprune.manifest.manifest import ChoiceFacts, PlannedTensor
from edgeprune.report.plots import DENSE, MATRIX, PRUNED, svg


def choice_front(choice: ChoiceFacts) -> str:
    """Predicted loss of the best choice for each size or speed, and the one that was taken."""
    costs, losses = zip(*sorted(choice.front), strict=True)

    def shown(cost: float) -> float:
        return 1 / cost if choice.decode else cost / 1e6

    def draw(axes: Any) -> None:
        axes.plot(list(map(shown, costs)), losses, marker=".", linewidth=1, color=DENSE)
        at = choice.decode or choice.bytes / 1e6
        axes.plot(at, choice.loss, marker="o", color=PRUNED, label="chosen")
        unit = "tokens/s, predicted" if choice.decode else "MB"
        axes.set(xlabel=unit, ylabel="nats a token, before training", yscale="log")
        axes.legend(fontsize=7)

    return svg(draw)


def bits_by_layer(plan: Sequence[PlannedTensor]) -> str:
    """Packed bits of a weight by block, one line per kind of matrix."""
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in plan:
        match = MATRIX.search(row.name)
        if match and row.packed_bits is not None and len(row.shape) > 1:
            lines[match[2].rpartition(".")[2]].append((int(match[1]), row.packed_bits))

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker=".", linewidth=1, label=name)
        axes.set(xlabel="block", ylabel="bits / weight")
        axes.legend(ncols=4, fontsize=7)

    return svg(draw)
