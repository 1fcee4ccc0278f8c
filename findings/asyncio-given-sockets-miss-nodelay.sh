#!/usr/bin/env bash
# asyncio sets TCP_NODELAY only if the Python socket object names the protocol; sockets that a program is given do not.
#
# Expected: asyncio sets TCP_NODELAY on every TCP connection, however the listener was made.
# Seen: it is set where asyncio makes the listener from a host and a port. With sock=socket.create_server(...) or
#   sock=socket.fromfd(...) it is not: `proto` of these objects is 0, accepted sockets inherit that number, and asyncio
#   asks for IPPROTO_TCP. The same descriptor in socket.socket(fileno=...) has proto 6, read from the kernel, and gets
#   the option. connect_accepted_socket() and open_connection(sock=...) differ in the same way.
# Why it matters: a process that inherits its listener, or receives clients, answers a second small write only after
#   the client's delayed ACK, about 40 ms, and the same code with host and port does not. Wrap descriptors with
#   socket.socket(fileno=...), or set the option in the protocol's connection_made().
# Documentation: https://docs.python.org/3/whatsnew/3.6.html#asyncio says that the option is set for all TCP transports;
#   the page of the event loop makes no exception for `sock`. python/cpython issue 148783 is the same cause on macOS.
# Versions: Python 3.11.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "needs Python 3.11"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 --version | cut -d. -f1-2
cat > nodelay.py <<'PY'
import asyncio, socket
def listener():
    return socket.create_server(('127.0.0.1', 0))
def option(sock):
    return f'proto {sock.proto}, TCP_NODELAY {sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)}'
async def serve(name, **how):
    accepted = asyncio.get_running_loop().create_future()
    async def handle(_reader, writer):
        sock = writer.get_extra_info('socket')
        accepted.set_result(option(sock))
        writer.close()
    server = await asyncio.start_server(handle, **how)
    with socket.create_connection(server.sockets[0].getsockname()):
        print(f'start_server, {name}: {await accepted}')
    server.close()
async def main():
    loop = asyncio.get_running_loop()
    await serve('host and port', host='127.0.0.1', port=0)
    await serve('create_server()', sock=listener())
    given = listener()
    await serve('fromfd()', sock=socket.fromfd(given.fileno(), socket.AF_INET, socket.SOCK_STREAM))
    await serve('socket(fileno=)', sock=socket.socket(fileno=given.detach()))
    for name, wrap in {'as accepted': lambda sock: sock, 'socket(fileno=)': lambda sock: socket.socket(fileno=sock.detach())}.items():
        with listener() as server, socket.create_connection(server.getsockname()):
            sock = wrap(server.accept()[0])
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, sock)
            print(f'connect_accepted_socket, {name}: {option(sock)}')
            transport.abort()
    with listener() as server:
        _, writer = await asyncio.open_connection(*server.getsockname())
        print('open_connection, host and port:', option(writer.get_extra_info('socket')))
        writer.close()
        sock = socket.create_connection(server.getsockname())
        plain = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        sock.close()
        plain.setblocking(False)
        _, writer = await asyncio.open_connection(sock=plain)
        print('open_connection, fromfd():', option(plain))
        writer.close()
asyncio.run(main())
PY
out=$(timeout 20 python3 nodelay.py || true)
printf '%s\n' "$out"
recorded='start_server, host and port: proto 6, TCP_NODELAY 1
start_server, create_server(): proto 0, TCP_NODELAY 0
start_server, fromfd(): proto 0, TCP_NODELAY 0
start_server, socket(fileno=): proto 6, TCP_NODELAY 1
connect_accepted_socket, as accepted: proto 0, TCP_NODELAY 0
connect_accepted_socket, socket(fileno=): proto 6, TCP_NODELAY 1
open_connection, host and port: proto 6, TCP_NODELAY 1
open_connection, fromfd(): proto 0, TCP_NODELAY 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
