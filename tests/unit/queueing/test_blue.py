from meshnode.queueing.blue import LOWER, MAX_FLOWS, RAISE, Blue


def test_a_probability_rises_once_a_period():
    blue = Blue(random=lambda: 0.5)
    for now in range(100, 121):
        blue.overflowed("flood", 5, now)
    # at 100, 106, 112 and 118: more than a period apart
    assert blue.probabilities == {"flood": (4 * RAISE, 118)}


def test_a_probability_does_not_pass_one():
    blue = Blue(random=lambda: 0.999)
    for step in range(300):
        blue.overflowed("flood", 5, 6 * step)
    assert blue.probabilities["flood"][0] == 1.0
    assert blue.refuses("flood", True, 5, 2000)


def test_the_die_decides():
    draws = iter([RAISE, RAISE - 1e-9])
    blue = Blue(random=lambda: next(draws))
    blue.overflowed("flood", 5, 0)
    assert not blue.refuses("flood", True, 5, 1)
    assert blue.refuses("flood", True, 5, 1)
    assert not blue.refuses("other", True, 5, 1)  # draws nothing
    assert next(draws, None) is None


def test_found_empty_it_falls_a_step_a_period():
    blue = Blue(random=lambda: 0.5)
    blue.overflowed("flood", 5, 0)
    blue.emptied("flood", 5, 5)
    assert blue.probabilities["flood"] == (RAISE, 0)
    for step in range(1, 16):
        blue.emptied("flood", 5, 6 * step)
        assert blue.probabilities["flood"] == (RAISE - step * LOWER, 6 * step)
    blue.emptied("flood", 5, 96)
    assert blue.probabilities == {}
    blue.emptied("flood", 5, 200)
    blue.emptied("other", 5, 200)
    assert blue.probabilities == {}


def test_away_it_falls_with_time():
    blue = Blue(random=lambda: 0.5)
    blue.overflowed("flood", 5, 0)
    assert not blue.refuses("flood", False, 5, 17)
    assert blue.probabilities["flood"] == (
        RAISE - 3 * LOWER,
        15,
    )  # what is left of a period counts the next time
    assert not blue.refuses("flood", False, 5, 20)
    assert blue.probabilities["flood"] == (RAISE - 4 * LOWER, 20)
    assert not blue.refuses("flood", True, 5, 60)
    assert blue.probabilities["flood"] == (RAISE - 4 * LOWER, 20)  # in the queue it is `emptied` that counts
    assert not blue.refuses("flood", False, 5, 80)
    assert blue.probabilities == {}


def test_the_number_of_flows_is_bounded():
    blue = Blue(random=lambda: 0.5)
    for flow in range(MAX_FLOWS + 10):
        blue.overflowed(flow, 5, 0)
        blue.overflowed(flow, 5, 10)
    assert list(blue.probabilities) == list(range(10, MAX_FLOWS + 10))


def test_without_a_die_nothing_is_refused():
    blue = Blue(random=None)
    blue.overflowed("flood", 5, 0)
    assert blue.probabilities == {}
    assert not blue.refuses("flood", True, 5, 0)
