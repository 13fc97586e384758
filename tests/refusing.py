"""A Linux process whose system calls fail with an error of one's choice."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

import pytest

# <linux/prctl.h>, <linux/filter.h> and <linux/seccomp.h>
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
FAIL, ALLOW = 0x00050000, 0x7FFF0000
#: The number of socket().
NUMBERS = {"x86_64": 41, "aarch64": 198}


class Filter(ctypes.Structure):
    """A struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def refuse_sockets(error: int) -> None:
    """Let each later socket() of this process fail with *error*, for ever."""
    program = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, NUMBERS[platform.machine()]),
        (RETURN, 0, 0, FAIL | error),
        (RETURN, 0, 0, ALLOW),
    ]
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    libc = ctypes.CDLL(None, use_errno=True)
    rules = ctypes.byref(Filter(len(program), packed))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, rules
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def skip_if_sockets_cannot_be_refused() -> None:
    """Where this is not Linux, or another processor."""
    if platform.system() != "Linux" or platform.machine() not in NUMBERS:
        pytest.skip("needs Linux's seccomp")
