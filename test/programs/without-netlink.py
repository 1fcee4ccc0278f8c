"""python3 without-netlink.py COMMAND...: runs a command that can open no netlink sockets, like in a strict container. x86-64 only."""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SYS_SOCKET = 41
AF_NETLINK = 16
EPERM = 1
ALLOW = 0x7FFF0000
FAIL = 0x00050000


def instruction(code, when_true, when_false, value):
    """One `struct sock_filter`."""
    return struct.pack("HBBI", code, when_true, when_false, value)


LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# In `struct seccomp_data`, the number of the call is at 0, and its first argument at 16.
PROGRAM = [
    instruction(LOAD, 0, 0, 0),
    instruction(JUMP_IF_EQUAL, 0, 3, SYS_SOCKET),
    instruction(LOAD, 0, 0, 16),
    instruction(JUMP_IF_EQUAL, 0, 1, AF_NETLINK),
    instruction(RETURN, 0, 0, FAIL | EPERM),
    instruction(RETURN, 0, 0, ALLOW),
]


class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
code = ctypes.create_string_buffer(b"".join(PROGRAM))
program = Filter(len(PROGRAM), ctypes.addressof(code))
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
    sys.exit("no_new_privs failed")
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
    sys.exit("seccomp failed")
os.execvp(sys.argv[1], sys.argv[1:])
