"""The two numbers that sum up a measurement: percentiles of a latency, and the fairness of shares."""

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` (0 to 100) of the values lie, linear between neighbours.

    ValueError when there are no values: a measurement without samples has no latency, not a good one.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError("a percentile needs values, and a percentage from 0 to 100")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def jain_index(shares: Sequence[float]) -> float:
    """Jain's fairness index (Jain, Chiu and Hawe 1984): 1 when all shares are equal, 1/n when one has all.

    ValueError when there are no shares, or nothing was shared.
    """
    squares = sum(share * share for share in shares)
    if squares == 0:
        raise ValueError("fairness needs shares that are not all zero")
    total = sum(shares)
    return total * total / (len(shares) * squares)
