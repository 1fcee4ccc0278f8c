#!/usr/bin/env bash
# shutdown() of a listener stops it for all processes that hold it; a Unix listener never recovers, and seems ready.
#
# Expected: a process that stops using a shared listener affects only itself, as with close(); or shutdown() is refused,
#   because a listener is not connected. A holder that calls listen() again is told whether it works.
# Seen: shutdown(SHUT_RD) succeeds, and clients of all holders are refused. SHUT_WR changes nothing. On TCP, accept()
#   fails with EINVAL, and a new listen() revives the port. On a Unix socket, poll() reports the listener as readable
#   for good, accept() says EAGAIN if it does not block and EINVAL if it does, and listen() succeeds but clients are
#   still refused.
# Why it matters: one of two generations that calls shutdown() before close(), as one does with connections, takes the
#   port from its successor. A successor that waits for its Unix listener with poll() wakes up again and again and
#   accepts nothing. Use close() only; to revive a Unix path, bind a new socket.
# Documentation: shutdown(2) speaks of connections, and gives ENOTCONN for a socket that is not connected. listen(2)
#   and accept(2) do not mention it. https://man7.org/linux/man-pages/man2/shutdown.2.html
# Versions: the kernel and the Python that the first line names.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2), $(python3 --version)"
cat > holders.py <<'PY'
import errno, itertools, os, select, socket
numbers = itertools.count()
def tcp():
    with socket.create_server(('127.0.0.1', 0)) as free: # a port with a number of its own: listen() keeps it
        port = free.getsockname()[1]
    return socket.create_server(('127.0.0.1', port))
def unix():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f'{next(numbers)}.sock')
    listener.listen()
    return listener
def attempt(call):
    try:
        result = call()
        return 'ok' if result is None else result
    except OSError as error:
        return errno.errorcode[error.errno]
def connect(listener):
    with socket.socket(listener.family) as client:
        return attempt(lambda: client.connect(listener.getsockname()))
def accept(listener, blocking):
    listener.setblocking(blocking)
    return attempt(lambda: listener.accept()[0].close())
def ready(listener):
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return 'readable' if any(events & select.POLLIN for _, events in poll.poll(0)) else 'quiet'
def other(listener, act):
    # another process that holds the same listener
    child = os.fork()
    if child == 0:
        act(listener)
        os._exit(0)
    os.waitpid(child, 0)
acts = {
    'close()': lambda listener: listener.close(),
    'shutdown(SHUT_WR)': lambda listener: listener.shutdown(socket.SHUT_WR),
    'shutdown(SHUT_RD)': lambda listener: listener.shutdown(socket.SHUT_RD),
}
for name, make in {'tcp': tcp, 'unix': unix}.items():
    for act in acts:
        listener = make()
        other(listener, acts[act])
        state = connect(listener)
        print(f'{name} after {act} in another process: connect {state}, {ready(listener)}, accept {accept(listener, False)}')
    print(f'{name}: accept that may block {accept(listener, True)}, still {ready(listener)}')
    print(f'{name}: listen() again {attempt(listener.listen)}, then connect {connect(listener)}')
PY
out=$(timeout 20 python3 holders.py || true)
printf '%s\n' "$out"
recorded='tcp after close() in another process: connect ok, readable, accept ok
tcp after shutdown(SHUT_WR) in another process: connect ok, readable, accept ok
tcp after shutdown(SHUT_RD) in another process: connect ECONNREFUSED, quiet, accept EINVAL
tcp: accept that may block EINVAL, still quiet
tcp: listen() again ok, then connect ok
unix after close() in another process: connect ok, readable, accept ok
unix after shutdown(SHUT_WR) in another process: connect ok, readable, accept ok
unix after shutdown(SHUT_RD) in another process: connect ECONNREFUSED, readable, accept EAGAIN
unix: accept that may block EINVAL, still readable
unix: listen() again ok, then connect ECONNREFUSED'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
