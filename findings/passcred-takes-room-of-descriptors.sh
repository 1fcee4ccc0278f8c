#!/usr/bin/env bash
# SO_PASSCRED on a listener takes the room of passed descriptors in its connections: they arrive without them.
#
# Expected: a control buffer that holds the number of descriptors that are sent is enough, or recvmsg(2) fails.
# Seen: accepted connections inherit the option, and the kernel writes the sender's credentials before the descriptors.
#   What no longer fits is closed, with MSG_CTRUNC as the only trace: Python's socket.recv_fds() returns no descriptor, and
#   multiprocessing's recv_handle() raises RuntimeError. SO_TIMESTAMP does the same on seqpacket, not on stream.
#   SO_PASSPIDFD adds a descriptor of its own behind the others, which a receiver that looks for SCM_RIGHTS only keeps open.
# Why it matters: a supervisor or a unit of systemd that sets the option (PassCredentials=yes) for its listener takes the
#   descriptors from programs that hand over connections on it. Clear the options on each lane, or leave room for them.
# Documentation: unix(7) says that descriptors that do not fit are closed, and does not connect this with SO_PASSCRED. The
#   descriptions of socket.recv_fds() and of PassCredentials= in systemd.socket(5) do not mention each other's subject.
# Versions: Python 3.11, the kernel that the first line names.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "needs Python 3.11"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2), $(python3 --version | cut -d. -f1-2)"
cat > receive.py <<'PY'
import array, multiprocessing.connection, multiprocessing.reduction, os, socket
SO_PASSPIDFD = 76
def connect(kind, option):
    path = 'lane'
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.bind(path)
    listener.listen()
    if option is not None:
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    sender = socket.socket(socket.AF_UNIX, kind)
    sender.connect(path)
    receiver, _ = listener.accept()
    listener.close()
    os.unlink(path)
    return sender, receiver
def opened():
    return len(os.listdir('/proc/self/fd'))
def truncated(flags):
    return ', MSG_CTRUNC' if flags & socket.MSG_CTRUNC else ''
def recv_fds(kind, option):
    sender, receiver = connect(kind, option)
    with open('/dev/null') as passed:
        socket.send_fds(sender, [b'take'], [passed.fileno()])
        message, fds, flags, _ = socket.recv_fds(receiver, 10, 1)
        for fd in fds:
            os.close(fd)
    return f'{message.decode()}, descriptors: {len(fds)}{truncated(flags)}'
def with_room(option):
    sender, receiver = connect(socket.SOCK_STREAM, option)
    with open('/dev/null') as passed:
        socket.send_fds(sender, [b'take'], [passed.fileno()])
        before = opened()
        _, ancillary, flags, _ = receiver.recvmsg(10, socket.CMSG_SPACE(4) + 100)
        rights = [data for _, kind, data in ancillary if kind == socket.SCM_RIGHTS]
        fds = array.array('i', b''.join(rights))
        extra = opened() - before - len(fds)
        return f'descriptors: {len(fds)}{truncated(flags)}, in another item: {extra}'
def recv_handle(option):
    sender, receiver = connect(socket.SOCK_STREAM, option)
    lane = multiprocessing.connection.Connection(receiver.detach())
    with open('/dev/null') as passed:
        socket.send_fds(sender, [b'\x01'], [passed.fileno()]) # the count, as send_handle() writes it
    try:
        os.close(multiprocessing.reduction.recv_handle(lane))
        return 'a descriptor'
    except RuntimeError as error:
        return type(error).__name__
for name, option in (('plain', None), ('SO_PASSCRED', socket.SO_PASSCRED), ('SO_TIMESTAMP', 29), ('SO_PASSPIDFD', SO_PASSPIDFD)):
    print(f'{name}, recv_fds() on stream: {recv_fds(socket.SOCK_STREAM, option)}')
    print(f'{name}, recv_fds() on seqpacket: {recv_fds(socket.SOCK_SEQPACKET, option)}')
    print(f'{name}, recv_handle(): {recv_handle(option)}')
    print(f'{name}, recvmsg() with room: {with_room(option)}')
PY
out=$(timeout 60 python3 receive.py || true)
printf '%s\n' "$out"
recorded='plain, recv_fds() on stream: take, descriptors: 1
plain, recv_fds() on seqpacket: take, descriptors: 1
plain, recv_handle(): a descriptor
plain, recvmsg() with room: descriptors: 1, in another item: 0
SO_PASSCRED, recv_fds() on stream: take, descriptors: 0, MSG_CTRUNC
SO_PASSCRED, recv_fds() on seqpacket: take, descriptors: 0, MSG_CTRUNC
SO_PASSCRED, recv_handle(): RuntimeError
SO_PASSCRED, recvmsg() with room: descriptors: 1, in another item: 0
SO_TIMESTAMP, recv_fds() on stream: take, descriptors: 1
SO_TIMESTAMP, recv_fds() on seqpacket: take, descriptors: 1
SO_TIMESTAMP, recv_handle(): a descriptor
SO_TIMESTAMP, recvmsg() with room: descriptors: 1, in another item: 0
SO_PASSPIDFD, recv_fds() on stream: take, descriptors: 1, MSG_CTRUNC
SO_PASSPIDFD, recv_fds() on seqpacket: take, descriptors: 1, MSG_CTRUNC
SO_PASSPIDFD, recv_handle(): a descriptor
SO_PASSPIDFD, recvmsg() with room: descriptors: 1, in another item: 1'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
