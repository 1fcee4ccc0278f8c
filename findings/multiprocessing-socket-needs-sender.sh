#!/usr/bin/env bash
# A socket in a multiprocessing pipe or queue is lost when its sender has exited, although send() has returned.
#
# Expected: a connection that was sent is in the pipe, as with SCM_RIGHTS, and belongs to the receiver.
# Seen: the pipe carries the address of a thread that multiprocessing starts in the sender, and the descriptor is fetched
#   from there when the message is read. If the sender is gone by then, which ends cleanly with exit code 0, recv() raises
#   FileNotFoundError and the client's connection is closed. multiprocessing.reduction.send_handle() and
#   socket.send_fds() put the descriptor into the message, and survive the sender.
# Why it matters: a worker that gives its connections away and exits, which is what a restart does, loses them all. Use
#   socket.send_fds(), or let the sender wait for an answer of the receiver.
# Documentation: https://docs.python.org/3/whatsnew/3.3.html#multiprocessing announces that connections can be transferred over
#   connections. The page of the module names neither the thread (multiprocessing.resource_sharer) nor what it needs.
# Versions: Python 3.11.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "needs Python 3.11"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 --version | cut -d. -f1-2
cat > retire.py <<'PY'
import multiprocessing, os, queue, socket
from multiprocessing import reduction
def as_lane(pipe):
    return socket.socket(fileno=os.dup(pipe.fileno()))
ways = { # how one sends, and how the other receives
    'pipe': (lambda pipe, connection: pipe.send(connection), lambda pipe: pipe.recv()),
    'send_handle()': (lambda pipe, connection: reduction.send_handle(pipe, connection.fileno(), os.getppid()),
                      lambda pipe: socket.socket(fileno=reduction.recv_handle(pipe))),
    'send_fds()': (lambda pipe, connection: socket.send_fds(as_lane(pipe), [b'take'], [connection.fileno()]),
                   lambda pipe: socket.socket(fileno=socket.recv_fds(as_lane(pipe), 10, 1)[1][0])),
}
def retire(way, pipe, listener, stay):
    connection, _ = listener.accept()
    ways[way][0](pipe, connection)
    connection.close()
    if stay:
        stay.wait()
def probe(context, way, stays):
    listener = socket.create_server(('127.0.0.1', 0))
    stay = context.Event() if stays else None
    ours, theirs = context.Pipe()
    client = socket.create_connection(listener.getsockname())
    worker = context.Process(target=retire, args=(way, theirs, listener, stay))
    worker.start()
    theirs.close()
    listener.close()
    if not stays:
        worker.join()
    try:
        with ways[way][1](ours) as connection:
            connection.sendall(b'served')
    except OSError as error:
        result = f'{type(error).__name__}, '
    else:
        result = ''
    client.settimeout(20)
    try:
        result += client.recv(100).decode() or 'client closed'
    except ConnectionResetError:
        result += 'client closed'
    if stays:
        stay.set()
        worker.join()
    return f'{result}, exit code {worker.exitcode}'
if __name__ == '__main__':
    for method in ('fork', 'spawn'):
        context = multiprocessing.get_context(method)
        print(f'{method}, pipe, sender stays: {probe(context, "pipe", True)}')
        for way in ways:
            print(f'{method}, {way}, sender has exited: {probe(context, way, False)}')
PY
out=$(timeout 100 python3 retire.py 2>/dev/null || true)
printf '%s\n' "$out"
recorded='fork, pipe, sender stays: served, exit code 0
fork, pipe, sender has exited: FileNotFoundError, client closed, exit code 0
fork, send_handle(), sender has exited: served, exit code 0
fork, send_fds(), sender has exited: served, exit code 0
spawn, pipe, sender stays: served, exit code 0
spawn, pipe, sender has exited: FileNotFoundError, client closed, exit code 0
spawn, send_handle(), sender has exited: served, exit code 0
spawn, send_fds(), sender has exited: served, exit code 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
