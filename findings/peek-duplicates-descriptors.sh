#!/usr/bin/env bash
# recvmsg() with MSG_PEEK opens the message's descriptors, again at every peek.
#
# Expected: peeking leaves the message in the queue and changes nothing else; the descriptors arrive with the
#   call that takes the message.
# Seen: on a Unix stream and on seqpacket, each recvmsg(MSG_PEEK) with room for control data opens one more
#   descriptor for the same file, and the call that takes the message opens another. With recv(MSG_PEEK), which
#   has no room for control data, none is opened and the message still carries it.
# Why it matters: a receiver that peeks to learn a message's type or length and ignores the control data leaks one
#   descriptor per peek, and the other side of a passed connection never sees it close. Peek with recv().
# Documentation: recv(2) and unix(7) describe MSG_PEEK and SCM_RIGHTS, and not the two together.
# Versions: Linux (seen on 6.18), Python 3.11.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
out=$(timeout 20 python3 - <<'PY' || true
import os, socket
def opened():
    return len(os.listdir('/proc/self/fd'))
for name, kind in (('stream', socket.SOCK_STREAM), ('seqpacket', socket.SOCK_SEQPACKET)):
    for how in ('recvmsg', 'recv'):
        sender, receiver = socket.socketpair(socket.AF_UNIX, kind)
        file = os.open('/dev/null', os.O_RDONLY)
        socket.send_fds(sender, [b'message'], [file])
        before = opened()
        for _ in range(5):
            if how == 'recvmsg':
                receiver.recvmsg(100, 100, socket.MSG_PEEK)
            else:
                receiver.recv(100, socket.MSG_PEEK)
        peeked = opened()
        receiver.recvmsg(100, 100)
        print(f'{name}: 5 peeks with {how} opened {peeked - before}, taking the message {opened() - peeked}')
PY
)
printf '%s\n' "$out"
recorded='stream: 5 peeks with recvmsg opened 5, taking the message 1
stream: 5 peeks with recv opened 0, taking the message 1
seqpacket: 5 peeks with recvmsg opened 5, taking the message 1
seqpacket: 5 peeks with recv opened 0, taking the message 1'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
