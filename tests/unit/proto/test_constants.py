"""The numbers: what others fixed is as they fixed it, and those that depend on each other fit together."""

from __future__ import annotations

from meshnode.crypto.suites import SUITES
from meshnode.proto import constants as c
from meshnode.values import SECOND


def test_the_timers_are_those_of_wireguard() -> None:
    """Whitepaper, section 6.1."""
    seconds = {
        "REKEY_AFTER_TIME": 120,
        "REJECT_AFTER_TIME": 180,
        "REKEY_ATTEMPT_TIME": 90,
        "REKEY_TIMEOUT": 5,
        "KEEPALIVE_TIMEOUT": 10,
        "COOKIE_SECRET_TIME": 120,
    }
    assert {name: getattr(c, name) // SECOND for name in seconds} == seconds


def test_the_responder_leaves_the_initiator_time_and_still_rekeys_before_the_end() -> None:
    assert c.REKEY_AFTER_TIME + c.REKEY_TIMEOUT < c.RESPONDER_REKEY_TIME
    assert c.RESPONDER_REKEY_TIME + c.REKEY_TIMEOUT < c.REJECT_AFTER_TIME


def test_a_cookie_is_given_up_before_its_secret_changes() -> None:
    assert c.COOKIE_LIFE_TIME < c.COOKIE_SECRET_TIME


def test_keys_are_renewed_before_they_are_refused() -> None:
    assert all(spec.rekey_after < spec.reject_after for spec in SUITES.values())


def test_idle_paths_are_probed_before_a_nat_forgets_them() -> None:
    assert c.KEEPALIVE_INTERVAL < 30 * SECOND


def test_a_dead_path_is_noticed_in_seconds() -> None:
    """DESIGN section 11: recovery from a dead path within five seconds."""
    assert c.PROBE_INTERVAL + c.PATH_MISSES * c.PROBE_TIMEOUT <= 5 * SECOND


def test_the_search_for_a_path_slows_down_to_a_minute_and_never_ends() -> None:
    assert list(c.PROBE_BACKOFF) == sorted(c.PROBE_BACKOFF)
    assert c.PROBE_BACKOFF[0] == 0
    assert c.PROBE_BACKOFF[-1] == 60 * SECOND


def test_one_source_alone_cannot_bring_the_whole_into_cookie_mode() -> None:
    assert c.SOURCE_RATE_PER_SECOND < c.LOAD_HANDSHAKES_PER_SECOND < c.HARD_HANDSHAKES_PER_SECOND


def test_a_promise_for_timestamps_is_not_what_others_take_for_the_future() -> None:
    assert c.TIMESTAMP_BLOCK < c.TIMESTAMP_TOLERANCE
