"""Keys and state on disk: modes under any umask, links, loose files, full disks, power cuts, two nodes at once."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.edge.errors import EdgeError, StoreBusy
from meshnode.edge.store import Secret, Store, networks, validate_network

KEY = bytes(range(32))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "state", "home")
    made.create()
    return made


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def files(store: Store) -> set[str]:
    return set(os.listdir(store.directory))


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_every_file_is_private_from_its_first_moment(
    tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modes are looked at before the first byte is written, not when all is done."""
    seen: dict[str, int] = {}
    real_write = os.write

    def spying_write(descriptor: int, data: bytes) -> int:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        seen[name] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", spying_write)
    with umask(mask):
        store = Store(tmp_path / "deep" / "state", "home")
        store.create()
        for secret in Secret:
            store.write_secret(secret, KEY)
        store.write_state(b"state")
        store.lock().release()
    assert seen == {f"{name}.new": 0o600 for name in (*Secret, "state")}
    assert {mode(store.directory / name) & 0o077 for name in files(store)} == {0}
    for directory in (store.directory, store.directory.parent, store.directory.parent.parent):
        assert mode(directory) == 0o700


def test_what_is_written_is_read_again(store: Store) -> None:
    assert store.read_secret(Secret.ROOT) is None
    assert store.read_state() is None
    assert not store.exists()
    store.write_secret(Secret.IDENTITY, KEY)
    store.write_state(b"one")
    store.write_state(b"two")
    assert store.read_secret(Secret.IDENTITY) == KEY
    assert store.read_state() == b"two"
    assert store.exists()
    assert files(store) == {Secret.IDENTITY, "state"}


def test_a_key_is_never_overwritten(store: Store) -> None:
    store.write_secret(Secret.STATIC, KEY)
    with pytest.raises(EdgeError, match="never overwritten"):
        store.write_secret(Secret.STATIC, bytes(32))
    assert store.read_secret(Secret.STATIC) == KEY
    assert files(store) == {Secret.STATIC}
    with pytest.raises(ValueError, match="32 bytes"):
        store.write_secret(Secret.ROOT, b"short")


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_a_loose_key_is_refused_with_the_command_that_mends_it(store: Store, loose: int) -> None:
    store.write_secret(Secret.IDENTITY, KEY)
    path = store.directory / Secret.IDENTITY
    path.chmod(loose)
    with pytest.raises(EdgeError) as caught:
        store.read_secret(Secret.IDENTITY)
    assert f"chmod 600 {path}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_key_is_refused(store: Store) -> None:
    store.write_secret(Secret.IDENTITY, KEY)
    (store.directory / Secret.IDENTITY).write_bytes(KEY[:-1])
    with pytest.raises(EdgeError, match="damaged"):
        store.read_secret(Secret.IDENTITY)


def test_a_link_in_place_of_a_file_is_refused(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(KEY)
    target.chmod(0o600)
    for name in (Secret.IDENTITY, "state", "lock"):
        (store.directory / name).symlink_to(target)
    with pytest.raises(EdgeError, match="symbolic link"):
        store.read_secret(Secret.IDENTITY)
    with pytest.raises(EdgeError, match="symbolic link"):
        store.read_state()
    with pytest.raises(EdgeError, match="symbolic link"):
        store.lock()
    with pytest.raises(EdgeError, match="never overwritten"):
        store.write_secret(Secret.IDENTITY, bytes(32))
    store.write_state(b"new")  # the link is replaced, not followed
    assert target.read_bytes() == KEY
    assert store.read_state() == b"new"


def test_a_link_in_place_of_the_temporary_file_is_not_followed(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    (store.directory / "state.new").symlink_to(target)
    store.write_state(b"new")
    assert target.read_bytes() == b"precious"
    assert store.read_state() == b"new"


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
    for use in (Store(tmp_path, "home").create, Store(tmp_path, "home").lock):
        with pytest.raises(EdgeError, match="not a directory"):
            use()


def test_a_fifo_in_place_of_a_key_does_not_hang(store: Store) -> None:
    os.mkfifo(store.directory / Secret.IDENTITY, 0o600)
    with pytest.raises(EdgeError, match="regular file"):
        store.read_secret(Secret.IDENTITY)


def test_a_directory_that_others_can_write_is_refused(store: Store) -> None:
    store.directory.chmod(0o770)
    with pytest.raises(EdgeError, match=f"chmod 700 {store.directory}"):
        store.write_state(b"x")


def test_another_users_key_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_secret(Secret.IDENTITY, KEY)
    uid = os.geteuid()
    if uid == 0:
        os.chown(store.directory / Secret.IDENTITY, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(EdgeError, match="another user"):
        store.read_secret(Secret.IDENTITY)


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_state(store: Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store.write_state(b"old")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(EdgeError, match=r"No space left on device.*free some space"):
            store.write_state(b"new")
    assert store.read_state() == b"old"
    assert files(store) == {"state"}


FILLER = """
import sys
from pathlib import Path
from meshnode.edge.errors import EdgeError
from meshnode.edge.store import Store
store = Store(Path(sys.argv[1]), "home")
store.create()
store.write_state(b"old")
try:
    store.write_state(bytes(1 << 20))
except EdgeError as error:
    print(error)
assert store.read_state() == b"old"
store.write_state(b"small enough again")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    mount = f"mount -t tmpfs -o size=64k tmpfs {tmp_path}"
    command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    program = [sys.executable, "-c", FILLER, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run([*command, *program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout


def test_a_disk_that_takes_a_little_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:3]))
    store.write_state(b"more than three bytes")
    assert store.read_state() == b"more than three bytes"


def test_a_write_that_was_cut_off_is_forgotten(store: Store) -> None:
    store.write_state(b"old")
    (store.directory / "state.new").write_bytes(b"half of the ne")
    assert store.read_state() == b"old"
    store.write_state(b"new")
    assert store.read_state() == b"new"
    assert files(store) == {"state"}


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EdgeError, match="cannot create") as caught:
        Store(tmp_path / "file", "home").create()
    assert "\n" not in str(caught.value)
    with pytest.raises(EdgeError, match=r"cannot (write|open)"):
        Store(tmp_path / "nowhere", "home").write_state(b"x")


HOLDER = """
import sys
from pathlib import Path
from meshnode.edge.store import Store
with Store(Path(sys.argv[1]), "home").lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_is_held_by_one_process_and_dies_with_it(store: Store) -> None:
    with store.lock(), pytest.raises(StoreBusy, match="runs already"):
        store.lock()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.directory.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreBusy):
            store.lock()
        holder.kill()
    store.lock().release()


def test_leaving_removes_what_is_ours_and_nothing_else(store: Store) -> None:
    store.write_secret(Secret.IDENTITY, KEY)
    store.write_state(b"x")
    (store.directory / "notes.txt").write_text("the operator's")
    with store.lock():
        store.remove()
    assert files(store) == {"notes.txt"}
    (store.directory / "notes.txt").unlink()
    with store.lock():
        store.remove()
    assert not store.directory.exists()


def test_networks_are_the_directories_with_an_identity(tmp_path: Path) -> None:
    assert networks(tmp_path / "missing") == []
    for net in ("office", "home"):
        made = Store(tmp_path, net)
        made.create()
        made.write_secret(Secret.IDENTITY, KEY)
    Store(tmp_path, "empty").create()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")
    assert networks(tmp_path) == ["home", "office"]
    with pytest.raises(EdgeError, match="cannot read"):
        networks(tmp_path / "file")


@given(st.text(max_size=70))
def test_a_network_name_never_leaves_its_directory(net: str) -> None:
    try:
        validate_network(net)
    except EdgeError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        path = Path("/state") / net
        assert path.parent == Path("/state")
        assert path.name == net
        assert net.isascii()


@pytest.mark.parametrize("net", ["", ".", "..", "../x", "a/b", "-x", ".x", "a" * 64, "a\n", "a\0", "ä"])
def test_bad_network_names(net: str) -> None:
    with pytest.raises(EdgeError, match="cannot name a network"):
        validate_network(net)
