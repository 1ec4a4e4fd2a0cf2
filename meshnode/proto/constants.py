"""Every protocol number, with its source. Durations are nanoseconds."""

from meshnode.values import MILLISECOND, SECOND, Nanos

# --- WireGuard whitepaper section 6.1, in its order ------------------------------------------------------

REKEY_AFTER_TIME: Nanos = 120 * SECOND
REJECT_AFTER_TIME: Nanos = 180 * SECOND
REKEY_ATTEMPT_TIME: Nanos = 90 * SECOND
REKEY_TIMEOUT: Nanos = 5 * SECOND
KEEPALIVE_TIMEOUT: Nanos = 10 * SECOND

REKEY_TIMEOUT_JITTER: Nanos = 334 * MILLISECOND
"""Spreads the retries of two sides that fail together (section 6.1; kernel MAX_JITTER of a third of a second)."""

RESPONDER_REKEY_TIME: Nanos = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
"""The responder of a session starts anew only when the initiator has not (section 6.2)."""

COOKIE_SECRET_TIME: Nanos = 120 * SECOND
COOKIE_LIFE_TIME: Nanos = 115 * SECOND
"""An initiator stops using a cookie before its secret changes (section 5.4.7, minus the latency of an answer)."""

INITIATIONS_PER_SECOND = 50
"""Initiations that one peer's static key may have answered (kernel noise.c)."""

# --- Where a mesh differs from one tunnel (docs/decisions/0002-timers.md) --------------------------------

EARLY_RETRIES: tuple[Nanos, ...] = (1 * SECOND, 2 * SECOND)
"""The first two retries come sooner than REKEY_TIMEOUT: a lost first flight must not cost five seconds."""

RECONNECT_TIME: Nanos = 15 * SECOND
"""After REKEY_ATTEMPT_TIME without an answer a member is still tried this often, for ever."""

SILENCE_TIME: Nanos = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Sent something, heard nothing for this long: the session is taken for lost (section 6.2)."""

CROSSING_TIME: Nanos = REKEY_TIMEOUT
"""Two handshakes of opposite direction that finish within this time have crossed; the lower PeerId's wins."""

SESSIONS_PER_PEER = 4
"""Keys held for one peer: the one in use, the one before, and two of crossing handshakes."""

# --- Handshake budgets (docs/threat-model.md; notes on WireGuard section 5.3) ----------------------------

SOURCE_RATE_PER_SECOND = 20
SOURCE_BURST = 5
"""Handshakes accepted from one source (IPv4 /32, IPv6 /64), as in WireGuard's rate limiter."""

LOAD_HANDSHAKES_PER_SECOND = 50
"""Above this many handshakes a second in total, every source has to show a cookie."""

HARD_HANDSHAKES_PER_SECOND = 400
"""Never more than this, cookie or not: at 0.4 ms each they may take a sixth of a core."""

LOAD_MEMORY: Nanos = 1 * SECOND
"""The load flag is kept this long after the last overload (kernel: one second)."""

TRACKED_SOURCES = 4096
"""Source buckets kept at once."""

FAILED_RESPONSES_PER_ATTEMPT = 16
"""Forged responses that one handshake in flight pays a DH for."""

# --- Identity and time -----------------------------------------------------------------------------------

TIMESTAMP_BLOCK: Nanos = 3600 * SECOND
"""Our timestamps are promised on disk this far ahead, so that a clock set back still moves forward."""

TIMESTAMP_TOLERANCE: Nanos = 24 * 3600 * SECOND
"""An initiation from further in the future is refused: believed, it would lock its sender out (CVE-2021-46873)."""

CLOCK_TOLERANCE_S = 24 * 3600
"""Grants are valid this many seconds around their dates: clocks of small machines are wrong."""

RENEWAL_S = 90 * 24 * 3600
"""An automatic renewal lasts as long as the grant did, at most this."""

MAX_CHAIN = 3
"""Grants between a member and a root."""

MAX_CHAIN_BYTES = 960
"""A whole chain: it travels in message 1 (1,200 bytes) and, with genesis, in one control message (1,200 bytes)."""

MAX_MEMBERS = 4096
MAX_STATEMENTS_PER_SIGNER = 8192
MAX_STATEMENTS = 32768
"""Statements and records that are kept; those of a root always are."""

MAX_INVITATIONS = 256
TIMESTAMPS_PER_INVITATION = 64

# --- Paths (RFC 9000 section 8 for the limit of 3, RFC 4787 for NAT lifetimes) ---------------------------

KEEPALIVE_INTERVAL: Nanos = 25 * SECOND
"""Idle paths are probed this often: below the 30 s after which common NATs forget a UDP mapping."""

PROBE_INTERVAL: Nanos = 1 * SECOND
"""Under traffic, or after a miss, a path is probed this often."""

PROBE_TIMEOUT: Nanos = 1 * SECOND
PATH_MISSES = 3
"""So many unanswered probes in a row and a path is dead."""

PROBE_BACKOFF: tuple[Nanos, ...] = tuple(
    int(s * SECOND) for s in (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
)
"""Gaps before the probes of a candidate that has not answered; the last one repeats."""

PROVEN_PROBE_INTERVAL: Nanos = 60 * SECOND
"""A path that works but is not in use is kept warm this often."""

UNPROVEN_FACTOR = 3
"""Bytes sent to an address that has not answered, per byte received from it."""

CANDIDATES_PER_PEER = 16
INITIATION_PATHS = 8
"""An initiation goes to at most so many candidates at once."""

MAX_HOPS = 2
"""Relays between two nodes (the data plane's relaying.py counts them down)."""

RELAYS_TRIED = 3
"""Relays that are offered for a peer at a time; each round offers others when these do not reach it."""

PUNCH_INTERVALS: tuple[Nanos, ...] = tuple(s * SECOND for s in (1, 2, 5, 10, 20, 40, 60))
"""Gaps between the calls to punch while a peer has no direct path; the last one repeats."""

# --- Path MTU (RFC 8899) -------------------------------------------------------------------------------------

BASE_MTU = 1280
"""Assumed until something is confirmed: the IPv6 minimum (BASE_PLPMTU of section 5.1.2)."""

LEAST_MTU = 512
"""What every path is believed to carry (MIN_PLPMTU)."""

MTU_PROBES = 3
"""Misses of one size that count as a loss by size (MAX_PROBES)."""

MTU_PROBE_TIMEOUT: Nanos = 1 * SECOND

MTU_BUSY_INTERVAL: Nanos = 10 * SECOND
MTU_IDLE_INTERVAL: Nanos = 60 * SECOND
"""How often the size in use is confirmed under traffic and without (PMTU_RAISE_TIMER is 600 s there)."""

RELAY_MTU = 1280
"""Assumed beyond a relay, and for the stream of a TCP path."""

ECN_PROBES = 3
"""Probes with ECT(0) before a path is believed to pass ECN without having shown it."""

# --- Gossip ----------------------------------------------------------------------------------------------

DIGEST_INTERVAL: Nanos = 10 * SECOND
DIGEST_PEERS = 3
"""Every interval a digest goes to so many peers, chosen at random."""

SYNC_TIMEOUT: Nanos = 2 * SECOND
SYNCS_AT_ONCE = 3
GOSSIP_FANOUT = 3
"""What is new is passed on to so many peers at random; its origin tells all."""

GOSSIP_BYTES_PER_SECOND = 64 * 1024
GOSSIP_BURST = 64 * 1024
"""What one peer may make us send it in statements and records."""

REDEEM_INTERVAL: Nanos = 1 * SECOND
REDEEMS_PER_SESSION = 4
"""Unanswered so often, a joiner starts over with a new handshake: the inviter has restarted."""

ENROLMENT_TIME: Nanos = 30 * SECOND
"""A joiner gives up after this long without an answer."""

JOINER_TIME: Nanos = 60 * SECOND
JOINERS_AT_ONCE = 32
"""An inviter forgets a joiner's session after this long, and serves so many at a time."""

RECORD_GAP: Nanos = 5 * SECOND
"""So long after a record comes one with other observed addresses: who invents such shall not set our pace."""

RECORD_INTERVAL: Nanos = 3600 * SECOND
"""A record is signed anew at least this often, so that stale ones show their age."""
