"""A network's keys and state on disk: 0600 files in a 0700 directory, replaced whole or not at all.

Every file is opened relative to the directory's own descriptor and never through a symbolic link, made with its final
mode whatever the umask is, and put in place by rename after it has reached the disk. So another user can neither read
a secret for a moment nor have us write elsewhere, and a full disk or a power cut leaves the old file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType

from meshnode.edge.errors import EdgeError, StoreBusy, reason

KEY_SIZE = 32
_STATE = "state"
_LOCK = "lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Secret(StrEnum):
    """Key files of 32 bytes: the node's Ed25519 seed and X25519 secret, and the founder's root seed."""

    IDENTITY = "identity.key"
    STATIC = "static.key"
    ROOT = "root.key"


class StoreLock:
    """Held while a node runs, or while a command changes the state. Ends with the process, however it ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Store:
    """The directory `state_dir/net`. Every method raises EdgeError with one line for the operator."""

    def __init__(self, state_dir: pathlib.Path, net: str) -> None:
        self.net = validate_network(net)
        self.directory = state_dir / net

    def create(self) -> None:
        """Make the directory, and those above it that are missing, for nobody else (0700)."""
        with _explained("create", self.directory):
            for directory in (*reversed(self.directory.parents), self.directory):
                if not directory.is_dir():
                    os.mkdir(directory, 0o700)
                    os.chmod(directory, 0o700)  # the umask may have taken too much
        with self._opened():
            pass

    def exists(self) -> bool:
        """Whether this machine has a part in the network: an identity."""
        return self._has(Secret.IDENTITY)

    def lock(self) -> StoreLock:
        """Take the lock. Raises StoreBusy when another process has it."""
        with self._opened() as directory, _explained("lock", self.directory / _LOCK):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(_LOCK, flags, 0o600, dir_fd=directory)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise StoreBusy(
                    f"the node of network {self.net} runs already: `meshnode status --net {self.net}` shows it"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            return StoreLock(descriptor)

    def read_secret(self, secret: Secret) -> bytes | None:
        """The key, None where there is none. Raises EdgeError when others can read or have planted it."""
        key = self._read(secret)
        if key is not None and len(key) != KEY_SIZE:
            fix = "restore it from a backup, or remove it and join anew"
            raise EdgeError(f"{self.directory / secret} is damaged (not {KEY_SIZE} bytes): {fix}")
        return key

    def write_secret(self, secret: Secret, key: bytes) -> None:
        """Put a new key on disk. Raises EdgeError when there is one already: no key is ever overwritten."""
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key has {KEY_SIZE} bytes")
        self._write(secret, key, replace=False)

    def read_state(self) -> bytes | None:
        """The encoded state, None where there is none."""
        return self._read(_STATE)

    def write_state(self, data: bytes) -> None:
        """Put the encoded state in place of the old one; on disk when this returns."""
        self._write(_STATE, data, replace=True)

    def remove(self) -> None:
        """Delete the keys, then the rest. A directory with files that are not ours stays."""
        with self._opened() as directory, _explained("remove", self.directory):
            for name in (*Secret, _STATE, _LOCK):
                for each in (name, _temporary(name)):
                    with _missing_is_fine():
                        os.unlink(each, dir_fd=directory)
            os.fsync(directory)
        with _explained("remove", self.directory):
            try:
                os.rmdir(self.directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The directory's descriptor, once its owner and mode are what they should be."""
        with _explained("open", self.directory):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.directory, flags)
        try:
            status = os.fstat(descriptor)
            _check_owner(status, self.directory)
            if status.st_mode & 0o022:
                raise EdgeError(f"others can write to {self.directory}: run `chmod 700 {self.directory}`")
            yield descriptor
        finally:
            os.close(descriptor)

    def _has(self, name: str) -> bool:
        path = self.directory / name
        with _explained("read", path):
            try:
                os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def _read(self, name: str) -> bytes | None:
        if not self._has(name):
            return None
        path = self.directory / name
        with self._opened() as directory, _explained("read", path):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            with open(os.open(name, flags, dir_fd=directory), "rb") as file:
                status = os.fstat(file.fileno())
                _check_owner(status, path)
                if not stat.S_ISREG(status.st_mode):
                    raise EdgeError(f"{path} is not a regular file: remove it")
                if status.st_mode & 0o077:
                    raise EdgeError(f"others can read or write {path}: run `chmod 600 {path}`")
                return file.read()

    def _write(self, name: str, data: bytes, replace: bool) -> None:
        path, temporary = self.directory / name, _temporary(name)
        with self._opened() as directory, _explained("write", path):
            with _missing_is_fine():
                os.unlink(temporary, dir_fd=directory)  # left by a crash
            try:
                _write_new(temporary, data, directory)
                if replace:
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                else:
                    # A link, unlike a rename, fails where there is a file.
                    os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                with _missing_is_fine():
                    os.unlink(temporary, dir_fd=directory)
            os.fsync(directory)


def validate_network(net: str) -> str:
    """`net`, if it can name a network (and so a directory). Raises EdgeError."""
    if not _NAME.fullmatch(net):
        rule = "1 to 63 of a-z A-Z 0-9 . _ -, beginning with a letter or digit"
        raise EdgeError(f"{net[:80]!r} cannot name a network: use {rule}")
    return net


def networks(state_dir: pathlib.Path) -> list[str]:
    """The networks in which this machine has a part, sorted."""
    with _explained("read", state_dir):
        try:
            names = sorted(os.listdir(state_dir))
        except FileNotFoundError:
            return []
        # What we may not look into is not ours.
        return [
            name
            for name in names
            if _NAME.fullmatch(name) and os.path.lexists(state_dir / name / Secret.IDENTITY)
        ]


def _write_new(name: str, data: bytes, directory: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.fchmod(descriptor, 0o600)  # the umask may have taken too much
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(name: str) -> str:
    return f"{name}.new"


def _check_owner(status: os.stat_result, path: pathlib.Path) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise EdgeError(f"{path} belongs to another user: run `chown -R {os.geteuid()} {path}`")


@contextmanager
def _explained(verb: str, path: pathlib.Path) -> Iterator[None]:
    """Turn what the operating system says into one line with a way out."""
    try:
        yield
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, "look at the disk and at the directory's permissions")
        raise EdgeError(f"cannot {verb} {path} ({reason(error)}): {fix}") from error


_FIXES = {
    errno.ENOSPC: "free some space; what was there before is untouched",
    errno.EDQUOT: "free some space; what was there before is untouched",
    errno.EROFS: "the file system is read-only; mount it writable or choose another --state-dir",
    errno.EACCES: "run as root, or choose a --state-dir that you may write",
    errno.EPERM: "run as root, or choose a --state-dir that you may write",
    errno.ELOOP: "it is a symbolic link, which could lead anywhere; put the real one there",
    errno.ENOTDIR: "a part of this path is a file or a link, not a directory",
    errno.ENOENT: "begin with `meshnode init` or `meshnode join`",
    errno.EEXIST: "it is there already and is never overwritten",
}


@contextmanager
def _missing_is_fine() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        pass
