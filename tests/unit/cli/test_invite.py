"""`meshnode invite`: the token and nothing else on standard output, with the node running or stopped."""

from __future__ import annotations

import time

import pytest

from meshnode.edge.errors import EdgeError
from meshnode.edge.store import Store
from meshnode.wire.state import StoredInvitation, parse_state_untrusted
from meshnode.wire.statement import Role
from meshnode.wire.token import Token, parse_token_untrusted
from tests.unit.cli.conftest import Machine

WEEK = 7 * 86_400


@pytest.fixture
def founder(machine: Machine) -> Machine:
    machine("init", "--net", "home", "--name", "alpha")
    return machine


def invite(machine: Machine, *words: str) -> Token:
    done = machine("invite", *words)
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    return parse_token_untrusted(done.out)


def stored(machine: Machine) -> tuple[StoredInvitation, ...]:
    data = Store(machine.state_dir, "home").read_state()
    assert data is not None
    return parse_state_untrusted(data).invitations


def test_a_stopped_node_invites_from_its_locked_state(founder: Machine) -> None:
    token = invite(founder)
    assert token.name == "home"
    assert token.endpoints == ("192.0.2.7:4655",)
    assert token.expires == pytest.approx(time.time() + WEEK, abs=60)
    (invitation,) = stored(founder)
    assert (invitation.name, invitation.uses, invitation.roles) == (None, 1, 0)


def test_the_secret_itself_is_not_stored(founder: Machine) -> None:
    token = invite(founder)
    data = Store(founder.state_dir, "home").read_state()
    assert data is not None
    assert token.secret not in data


def test_every_option_goes_into_the_invitation(founder: Machine) -> None:
    words = "--name beta --uses 3 --expires 90s --admin --router --prefix 192.168.7.0/24 --prefix fd00:7::/64"
    token = invite(founder, *words.split(), "--valid", "90d")
    (invitation,) = stored(founder)
    assert (invitation.name, invitation.uses) == ("beta", 3)
    assert invitation.roles == Role.ADMIN | Role.ROUTER
    assert [length for _, length in invitation.prefixes] == [24, 64]
    assert invitation.valid_seconds == 90 * 86_400
    assert token.expires == invitation.expires


def test_advertised_addresses_come_first(founder: Machine) -> None:
    founder.config.write_text('advertise = ["vpn.example.org:4655"]\nport = 5000\n')
    assert invite(founder).endpoints == ("vpn.example.org:4655", "192.0.2.7:5000")


def test_without_any_address_no_invitation_is_opened(
    founder: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshnode.cli.invite.local_endpoints", lambda port: ())
    assert "`advertise`" in founder.fails("invite")
    assert stored(founder) == ()


def test_a_taken_name_is_refused(founder: Machine) -> None:
    assert "the name alpha is taken" in founder.fails("invite", "--name", "alpha")
    assert stored(founder) == ()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--name", "a/b"], "cannot be a node's name"),
        (["--expires", "soon"], "write 90s, 15m, 12h, 7d or 4w"),
        (["--valid", "0d"], "write 90s, 15m, 12h, 7d or 4w"),
        (["--prefix", "10.0.0.1/8"], "do you mean 10.0.0.0/8?"),
        (["--prefix", "home"], "write it like 192.168.7.0/24"),
    ],
)
def test_what_makes_no_sense_is_refused(founder: Machine, words: list[str], hint: str) -> None:
    done = founder("invite", *words)
    assert done.code != 0
    assert hint in done.err
    assert stored(founder) == ()


def test_a_full_disk_opens_no_invitation(founder: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Store, data: bytes) -> None:
        raise EdgeError("cannot write the state (no space left on device): make room")

    monkeypatch.setattr(Store, "write_state", full)
    assert "no space left" in founder.fails("invite")
    assert stored(founder) == ()


def test_a_running_node_is_asked(machine: Machine, running) -> None:
    node = running(invite={"token": "mn1token"})
    done = machine("invite", "--net", "home", "--name", "beta", "--prefix", "192.168.7.0/24", "--admin")
    assert done.out == "mn1token\n"
    assert node.asked == [
        (
            "invite",
            {
                "name": "beta",
                "uses": 1,
                "expires_s": WEEK,
                "admin": True,
                "router": False,
                "prefixes": ["192.168.7.0/24"],
                "valid_s": 0,
            },
        )
    ]


def test_a_running_node_that_refuses_has_the_word(founder: Machine, running) -> None:
    running(invite=EdgeError("this node is no admin: ask one to invite"))
    assert founder.fails("invite") == "this node is no admin: ask one to invite"
    assert stored(founder) == ()


def test_a_node_that_holds_the_state_but_does_not_answer_yet_is_left_alone(founder: Machine) -> None:
    with Store(founder.state_dir, "home").lock():
        assert "runs already" in founder.fails("invite")


def test_a_machine_without_the_network_cannot_invite(machine: Machine) -> None:
    assert "meshnode" in machine.fails("invite", "--net", "home")
