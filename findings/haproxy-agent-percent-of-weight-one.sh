#!/usr/bin/env bash
# HAProxy agent-check: "50%" turns a server of the default weight off.
#
# Expected: an agent that answers 50% gets half of the server's traffic; where it is the only server, all of it.
# Seen: in HAProxy 2.6 the percentage of the configured weight is computed in integers. With the default weight
#   of 1 everything below 100% is 0, which means no new connections, and a backend whose servers all say 50%
#   refuses its clients. The state does not say DRAIN or DOWN. With `weight 100` the same answer gives 50.
# Why it matters: an agent that reports its load as a percentage works in a test (100%), and takes its host out
#   of service at the first lower value.
# Documentation: the configuration manual describes the percentage as relative to the initial weight, and weight
#   0 as no load balancing. It does not connect the two with the default of 1.
# Versions: HAProxy 2.6.12.
set -euo pipefail
for program in haproxy python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
haproxy -v | sed -n 1p
cat > agent.py <<'PY'
import os, signal, socket, subprocess, sys, threading, time
def listen():
    return socket.create_server(('127.0.0.1', 0))
def serve(listener, reply):
    def loop():
        while True:
            client, _ = listener.accept()
            client.sendall(reply())
            client.close()
    threading.Thread(target=loop, daemon=True).start()
word = b'100%\n'
agent, target = listen(), listen()
serve(agent, lambda: word)
serve(target, lambda: b'served')
with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(('127.0.0.1', 0)) as other:
    ports = one.getsockname()[1], other.getsockname()[1]
check = f'127.0.0.1:{target.getsockname()[1]} agent-check agent-port {agent.getsockname()[1]} agent-inter 100ms'
with open('haproxy.cfg', 'w') as config:
    config.write(f'''global
  stats socket {os.getcwd()}/stats.sock level admin
defaults
  mode tcp
  timeout connect 1s
  timeout client 2s
  timeout server 2s
  timeout queue 500ms
listen weight_one
  bind 127.0.0.1:{ports[0]}
  server s {check}
listen weight_hundred
  bind 127.0.0.1:{ports[1]}
  server s {check} weight 100
''')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that HAProxy is stopped below
proxy = subprocess.Popen(['haproxy', '-f', 'haproxy.cfg', '-db'], stderr=subprocess.DEVNULL)
def stats():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect('stats.sock')
        client.sendall(b'show stat\n')
        rows = client.makefile().read().splitlines()
    names = rows[0].lstrip('# ').split(',')
    table = [dict(zip(names, row.split(','))) for row in rows[1:] if row]
    return {row['pxname']: row for row in table if row['svname'] == 's'}
def ask(port):
    with socket.create_connection(('127.0.0.1', port), timeout=5) as client:
        try:
            return client.recv(10).decode() or 'closed without a byte'
        except ConnectionResetError:
            return 'closed without a byte'
try:
    for _ in range(50):  # until HAProxy listens
        time.sleep(0.1)
        try:
            stats()
            break
        except (ConnectionRefusedError, FileNotFoundError):
            pass
    for word in (b'100%\n', b'50%\n', b'99%\n', b'100%\n'):
        time.sleep(0.6)
        seen = stats()
        for name, port in (('weight_one', ports[0]), ('weight_hundred', ports[1])):
            print(f"agent says {word.decode().strip()}: {name}: weight {seen[name]['weight']}, state {seen[name]['status']}, client {ask(port)}")
finally:
    proxy.terminate()
    proxy.wait()
PY
out=$(timeout 40 python3 agent.py || true)
printf '%s\n' "$out"
recorded='agent says 100%: weight_one: weight 1, state no check, client served
agent says 100%: weight_hundred: weight 100, state no check, client served
agent says 50%: weight_one: weight 0, state no check, client closed without a byte
agent says 50%: weight_hundred: weight 50, state no check, client served
agent says 99%: weight_one: weight 0, state no check, client closed without a byte
agent says 99%: weight_hundred: weight 99, state no check, client served
agent says 100%: weight_one: weight 1, state no check, client served
agent says 100%: weight_hundred: weight 100, state no check, client served'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
