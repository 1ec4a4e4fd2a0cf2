"""A little precedence for the process that forwards everybody's packets: niceness and a short scheduler slice.

Under load the kernel's scheduler decides how long a packet waits for us. A higher niceness and, since Linux 6.12, a
short EEVDF slice (sched_setattr, sched_runtime) bring us to the CPU sooner without taking more of it. Real-time
scheduling would be faster still, and starve the users: not done.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import platform

from meshnode.values import MICROSECOND, Nanos

NICENESS = -10
AUTOGROUP = pathlib.Path("/proc/self/autogroup")
SLICE: Nanos = 100 * MICROSECOND
"""The shortest that the kernel takes."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_OTHER = 0


class _Attributes(ctypes.Structure):
    """struct sched_attr, version 0 (sched_setattr(2))."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def raise_priority(niceness: int = NICENESS, slice_: Nanos = SLICE) -> str | None:
    """Ask for `niceness` and a slice of `slice_` for this thread. None, or one line that says what was refused.

    Call it before other threads are started: they inherit it, and the slow ones can do without.
    """
    _raise_autogroup(niceness)
    refused = _set_slice(niceness, slice_)
    if refused is None:
        return None
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    except OSError:
        return "latency under load is higher without CAP_SYS_NICE: add it (docker: --cap-add SYS_NICE)"
    return f"no short scheduler slice here ({refused}): latency under load is a little higher"


def _raise_autogroup(niceness: int) -> None:
    """With sched_autogroup_enabled a session is scheduled as one group, and niceness counts only inside it.

    Where we lead a session (a service, a container) the group is ours alone and may be raised; else it is the
    user's shell with all that runs in it, and stays as it is. A kernel without autogroups has no such file.
    """
    if os.getsid(0) != os.getpid():
        return
    try:
        AUTOGROUP.write_text(str(niceness))
    except OSError:
        return  # not allowed, or no autogroups: what follows says whether we may


def _set_slice(niceness: int, slice_: Nanos) -> str | None:
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return "unknown machine"
    attributes = _Attributes(ctypes.sizeof(_Attributes), _SCHED_OTHER, 0, niceness, 0, slice_, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 0, ctypes.byref(attributes), 0) == 0:
        return None
    return os.strerror(ctypes.get_errno())
