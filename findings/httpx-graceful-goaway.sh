#!/usr/bin/env bash
# httpx with HTTP/2 fails requests in progress at a graceful GOAWAY, although their answers arrive.
#
# Expected: requests on streams up to the last one that the GOAWAY names are finished, and new ones go elsewhere.
# Seen: httpx 0.28.1 raises a ProtocolError for each of them, whether the frame names the stream or the highest possible
#   one, and whether the answer follows in the same packet or later, which it does not wait for. In h2 4.4.1 below it, a
#   connection is closed when a GOAWAY has arrived: the frames of the answer raise the error. The client's next request
#   succeeds, on a new connection.
# Why it matters: a server that drains with GOAWAY, as nginx does at a reload and after 1000 requests, answers all that it
#   has begun, and Python clients lose exactly those. They have to repeat them, even what was carried out.
# Documentation: RFC 9113, section 6.8, lets streams up to the last one of the GOAWAY complete. python-hyper/h2 issue 1181
#   describes the state machine, and encode/httpcore issue 730 is closed.
# Versions: httpx 0.28.1, httpcore 1.0.9, h2 4.4.1, Python 3.11.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "needs Python 3.11"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target python httpx==0.28.1 httpcore==1.0.9 \
  h2==4.4.1 >/dev/null 2>&1 || { echo "needs the Python registry"; exit 2; }
cat > drain.py <<'PY'
import asyncio, sys
sys.path.insert(0, 'python')
import h2.connection, h2.exceptions, hpack, httpx
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, SettingsFrame
STATUS_200 = b'\x88' # indexed in the static table of HPACK
HIGHEST = 2 ** 31 - 1
def goaway(last):
    frame = GoAwayFrame(0)
    frame.last_stream_id = last
    return frame.serialize()
def answer(stream):
    head = HeadersFrame(stream, STATUS_200, flags=['END_HEADERS'])
    body = DataFrame(stream, b'answer', flags=['END_STREAM'])
    return head.serialize() + body.serialize()
SETTINGS = SettingsFrame(0).serialize()
async def serve(reader, writer):
    await reader.readexactly(24) # the preface
    writer.write(SETTINGS)
    decoder = hpack.Decoder()
    try:
        while head := await reader.readexactly(9):
            payload = await reader.readexactly(int.from_bytes(head[:3], 'big'))
            if head[3] != HeadersFrame.type:
                continue
            stream = int.from_bytes(head[5:], 'big')
            path = dict(decoder.decode(payload)).get(':path')
            if path == '/answered-after':
                writer.write(goaway(stream))
                await reader.read() # to the end: this client does not wait for its answer
            else:
                last = {'/last-is-1': stream, '/last-is-highest': HIGHEST}.get(path)
                writer.write((goaway(last) if last else b'') + answer(stream))
    except asyncio.IncompleteReadError:
        pass
    writer.close()
async def ask(client, url):
    try:
        return (await client.get(url)).text
    except httpx.HTTPError as error:
        return type(error).__name__
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    base = f'http://127.0.0.1:{server.sockets[0].getsockname()[1]}'
    for path in ('plain', 'last-is-1', 'last-is-highest', 'answered-after'):
        async with httpx.AsyncClient(http1=False, http2=True) as client:
            print(f'httpx, {path}: {await ask(client, f"{base}/{path}")}; then {await ask(client, f"{base}/plain")}')
def bare(name, last):
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.send_headers(1, [(':method', 'GET'), (':path', '/'), (':scheme', 'http'), (':authority', 'localhost')], end_stream=True)
    try:
        events = client.receive_data(SETTINGS + (goaway(last) if last else b'') + answer(1))
        print(f'h2, {name}: {", ".join(type(event).__name__ for event in events)}')
    except h2.exceptions.ProtocolError as error:
        print(f'h2, {name}: {type(error).__name__}')
asyncio.run(main())
bare('plain', None)
bare('last-is-1', 1)
bare('last-is-highest', HIGHEST)
PY
out=$(timeout 60 python3 drain.py 2>/dev/null || true)
printf '%s\n' "$out"
recorded='httpx, plain: answer; then answer
httpx, last-is-1: LocalProtocolError; then answer
httpx, last-is-highest: LocalProtocolError; then answer
httpx, answered-after: RemoteProtocolError; then answer
h2, plain: RemoteSettingsChanged, ResponseReceived, DataReceived, StreamEnded
h2, last-is-1: ProtocolError
h2, last-is-highest: ProtocolError'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
