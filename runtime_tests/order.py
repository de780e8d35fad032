"""The order in which contenders take turns."""

import random
from collections.abc import Iterator

# Of more, balanced orders are slow to find, and drawn ones are nearly balanced.
_MOST = 10


def rounds(count: int, chance: random.Random) -> Iterator[list[int]]:
    """Order contenders, round after round, without end.

    What one run leaves behind (a warm processor, a cache full of other weights) meets the next. In
    a fixed order that is always the same one, which then seems slower or faster than it is. Here,
    in each ``count - 1`` rounds, every contender follows every other exactly once, also from one
    round into the next and from the last into the first.

    Args:
        count: number of contenders, called 0, 1, ...
        chance: draws among balanced orders.
    """
    while True:
        if 1 < count <= _MOST:
            order = _balanced(count, chance)
            yield from (order[start : start + count] for start in range(0, len(order), count))
        else:
            yield chance.sample(range(count), count)


def _balanced(count: int, chance: random.Random) -> list[int]:
    """Draw ``count - 1`` rounds in a row, by depth-first search."""
    order: list[int] = []
    steps = {(one, one) for one in range(count)}  # nobody follows itself

    def complete() -> bool:
        if len(order) == count * (count - 1):
            return (order[-1], order[0]) not in steps
        begun = order[len(order) - len(order) % count :]
        free = [one for one in range(count) if one not in begun]
        for one in chance.sample(free, len(free)):
            step = (order[-1] if order else -1, one)
            if step in steps:
                continue
            order.append(one)
            steps.add(step)
            if complete():
                return True
            order.pop()
            steps.remove(step)
        return False

    complete()
    return order
