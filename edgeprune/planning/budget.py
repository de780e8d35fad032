"""Choose one candidate for every part of a model, so that the losses add up to the least.

A part is a tensor with the storages that it could have, or a group of parts, such as a decoder
block, which may also go as a whole. Pure arithmetic: where losses and costs come from, and what a
candidate is, is the caller's business.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

# Halvings of the price: from any slope to one that is exact in float32.
_HALVINGS = 100


@dataclass(frozen=True)
class Candidate:
    """One way for a part to be.

    Attributes:
        name: of the way, for the part's owner.
        cost: in whatever the budget is in: bytes, seconds a token.
        loss: that it adds; may be negative.
    """

    name: str
    cost: float
    loss: float


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: of the part.
        candidates: ways for it to be, as a whole.
        parts: parts that it may be made of instead, each by itself.
    """

    name: str
    candidates: Sequence[Candidate] = ()
    parts: Sequence["Part"] = ()


@dataclass
class Choice:
    """A candidate for every part.

    Attributes:
        picked: by the part's name; parts of one that was taken as a whole are not named.
        cost: of all of them.
        loss: of all of them.
    """

    picked: dict[str, Candidate] = field(default_factory=dict)
    cost: float = 0.0
    loss: float = 0.0

    def add(self, other: "Choice") -> None:
        """Add a choice for other parts."""
        self.picked |= other.picked
        self.cost += other.cost
        self.loss += other.loss


def choose(parts: Sequence[Part], budget: float) -> Choice | None:
    """Find the choice of least loss whose cost is within a budget; None if there is none.

    Lagrangian relaxation (Everett, Oper. Res. 11, 1963; Shoham and Gersho, IEEE Trans. ASSP 36,
    1988): at a price for each unit of cost every part decides by itself, and a higher price buys
    less. The price is halved down to the last one at which the budget holds; what is left of the
    budget then goes, candidate by candidate, where it saves the most loss. The result is optimal
    but for what one candidate of one part costs.

    Args:
        parts: with a candidate each, or parts that have.
        budget: largest cost.
    """
    cheapest = _at(parts, inf)
    if cheapest.cost > budget:
        return None
    best = _at(parts, 0.0)
    if best.cost > budget:
        best = cheapest
        low, high = 0.0, _highest_price(parts)
        for _ in range(_HALVINGS):
            price = (low + high) / 2
            found = _at(parts, price)
            if found.cost <= budget:
                high = price
                best = min(best, found, key=lambda one: one.loss)
            else:
                low = price
    return _fill(dict(_leaves(parts)), best, budget)


def cheapest(parts: Sequence[Part], loss: float) -> Choice | None:
    """Find the choice of least cost whose loss is within a bound; None if there is none.

    As `choose`, with cost and loss in each other's place.
    """
    found = choose([_turned(part) for part in parts], loss)
    if found is None:
        return None
    picked = {name: _turn(one) for name, one in found.picked.items()}
    return Choice(picked, cost=found.loss, loss=found.cost)


def _turn(one: Candidate) -> Candidate:
    return Candidate(one.name, cost=one.loss, loss=one.cost)


def _turned(part: Part) -> Part:
    return Part(part.name, [*map(_turn, part.candidates)], [_turned(one) for one in part.parts])


def _at(parts: Sequence[Part], price: float) -> Choice:
    """Let every part decide at a price; of equals, take the cheaper."""
    found = Choice()
    for part in parts:
        found.add(_one_at(part, price))
    return found


def _one_at(part: Part, price: float) -> Choice:
    options = [Choice({part.name: one}, one.cost, one.loss) for one in part.candidates]
    if part.parts:
        options.append(_at(part.parts, price))
    if price == inf:
        return min(options, key=lambda one: (one.cost, one.loss))
    return min(options, key=lambda one: (one.loss + price * one.cost, one.cost))


def _highest_price(parts: Sequence[Part]) -> float:
    """Find a price at which every part takes its cheapest candidate."""
    slopes = [0.0]
    for part in _all(parts):
        costs = sorted({one.cost for one in part.candidates})
        gap = min((b - a for a, b in pairwise(costs)), default=inf)
        losses = [one.loss for one in part.candidates]
        if part.parts:  # against all of its own parts together
            own, inside = _at(part.parts, inf), _at(part.parts, 0.0)
            losses += [own.loss, inside.loss]
            apart = (abs(cost - own.cost) for cost in costs if cost != own.cost)
            gap = min([gap, *apart])
        if losses and gap < inf:
            slopes.append((max(losses) - min(losses)) / gap)
    return 2 * max(slopes)


def _all(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        yield part
        yield from _all(part.parts)


def _leaves(parts: Sequence[Part]) -> Iterator[tuple[str, Sequence[Candidate]]]:
    for part in _all(parts):
        yield part.name, part.candidates


def _fill(candidates: Mapping[str, Sequence[Candidate]], choice: Choice, budget: float) -> Choice:
    """Spend what is left of a budget, each time where it saves the most loss for its cost."""
    while True:
        left, best = budget - choice.cost, None
        for name, now in choice.picked.items():
            for one in candidates[name]:
                more, saved = one.cost - now.cost, now.loss - one.loss
                if saved > 0 and more <= left:
                    rate = saved / more if more > 0 else inf
                    if best is None or rate > best[0]:
                        best = (rate, name, one)
        if best is None:
            return choice
        _, name, one = best
        now = choice.picked[name]
        choice.picked[name] = one
        choice.cost += one.cost - now.cost
        choice.loss += one.loss - now.loss
