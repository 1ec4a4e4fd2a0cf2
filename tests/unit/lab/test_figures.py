import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.lab.figures import jain_index, percentile

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (25, 2), (50, 3), (90, 4.6), (100, 5)])
def test_percentiles_are_linear_between_neighbours(percent: float, expected: float) -> None:
    assert percentile([5, 3, 1, 2, 4], percent) == pytest.approx(expected)


def test_one_value_is_every_percentile() -> None:
    assert [percentile([7], percent) for percent in (0, 50, 99, 100)] == [7, 7, 7, 7]


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1], -1), ([1], 101)])
def test_a_percentile_of_nothing_is_an_error(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, percent)


@given(VALUES, st.floats(0, 100), st.floats(0, 100))
@settings(max_examples=50)
def test_percentiles_rise_between_the_extremes(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    slack = 1e-9 * max(values)
    assert min(values) <= percentile(values, low) <= percentile(values, high) + slack
    assert percentile(values, high) <= max(values) + slack


def test_jains_index_of_textbook_shares() -> None:
    assert jain_index([3, 3, 3]) == 1
    assert jain_index([1, 0, 0, 0]) == 0.25
    assert jain_index([1, 2, 3]) == pytest.approx(36 / 42)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=30))
@settings(max_examples=50)
def test_jains_index_is_between_one_nth_and_one(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain_index(shares) <= 1 + 1e-9


@pytest.mark.parametrize("shares", [[], [0, 0]])
def test_the_fairness_of_nothing_is_an_error(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="fairness"):
        jain_index(shares)
