"""Runs a program on this kernel as if it were older than Linux 6.16: setsockopt(SO_PASSRIGHTS) answers ENOPROTOOPT, by a seccomp filter.

without-passrights.py COMMAND ARGUMENT...
"""
import ctypes, os, platform, shutil, struct, sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | 92
SETSOCKOPT = {'x86_64': 54, 'aarch64': 208}[platform.machine()]
SOL_SOCKET, SO_PASSRIGHTS = 1, 83
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
# Offsets in struct seccomp_data: the number, and the low words of the second and the third argument.
NUMBER, LEVEL, OPTION = 0, 24, 32


def instruction(code, value, if_true=0, if_false=0):
    return struct.pack('HBBI', code, if_true, if_false, value)


program = b''.join(
    [
        instruction(LOAD, NUMBER),
        instruction(EQUAL, SETSOCKOPT, 0, 5),
        instruction(LOAD, LEVEL),
        instruction(EQUAL, SOL_SOCKET, 0, 3),
        instruction(LOAD, OPTION),
        instruction(EQUAL, SO_PASSRIGHTS, 0, 1),
        instruction(RETURN, FAIL),
        instruction(RETURN, ALLOW),
    ]
)
code = ctypes.create_string_buffer(program)
head = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
for call in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head), 0, 0)]:
    if libc.prctl(*map(ctypes.c_ulong, call)) != 0:
        sys.exit(f'prctl: {os.strerror(ctypes.get_errno())}')
os.execv(shutil.which(sys.argv[1]), sys.argv[1:])
