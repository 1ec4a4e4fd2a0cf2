"""What tests of enrolment begin with: a founder, somebody at the door, and what was said between them."""

from __future__ import annotations

from meshnode.proto.constants import ENROLMENT_TIME
from meshnode.proto.joiner import Joiner
from meshnode.values import MILLISECOND, SECOND
from meshnode.wire.control import ControlMessage, parse_control_untrusted
from meshnode.wire.frames import FRAME_HEADER, FrameType
from meshnode.wire.header import MessageType
from tests.unit.proto.neighbours import Parcel, Station, Street


def controls(parcels: list[Parcel], kind: type[ControlMessage]) -> list[Parcel]:
    """The parcels that carry one control message of this kind."""

    def carries(parcel: Parcel) -> bool:
        if parcel.keys is None or parcel.data[:1] != bytes([FrameType.CONTROL]):
            return False
        return isinstance(parse_control_untrusted(parcel.data[FRAME_HEADER.size :]), kind)

    return [parcel for parcel in parcels if carries(parcel)]


def of_type(parcels: list[Parcel], kind: MessageType) -> list[Parcel]:
    return [p for p in parcels if p.keys is None and p.data[0] == kind]


def scene() -> tuple[Street, Station, Station]:
    """A founder, and somebody who is about to join."""
    street = Street()
    ann = street.found()
    return street, ann, street.station("bob")


def wait(street: Street, joiner: Station) -> str | None:
    street.run_until(lambda: joiner.outcome is not None, ENROLMENT_TIME + SECOND)
    street.run(MILLISECOND)
    return joiner.outcome


def asking(street: Street, ann: Station, bob: Station) -> Joiner:
    """A joiner with a session whose redemption gets no answer."""
    street.drops = lambda p: p.keys is not None and p.source == ann.endpoint
    bob.join(ann.invite())
    street.run(SECOND // 2)
    assert isinstance(bob.core, Joiner)
    assert bob.plane.sessions
    return bob.core
