#!/usr/bin/env bash
# HAProxy agent-check: "down#reason" leaves the server up, and "up" does not end "drain" or "maint".
#
# Expected: "down", with a reason after #, takes the server out; "up" puts it back, whatever the agent sent
#   before.
# Seen: in HAProxy 2.6 "down#full" is one unknown word, so the server stays in service; "down #full" works. "up"
#   clears what "down" did, and leaves "drain" and "maint" as they are; those end only with "ready". "down"
#   without a newline is ignored too.
# Why it matters: an agent with one of these forms looks right in its own log. Send "up ready" and "down
#   #reason", each with a newline.
# Documentation: the configuration manual (agent-check) lists the words and says that a description may follow
#   "down", "stopped" or "fail" after a #. It says that words are delimited by spaces, tabs or commas.
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
word = b'up ready\n'
agent = socket.create_server(('127.0.0.1', 0))
def loop():
    while True:
        client, _ = agent.accept()
        client.sendall(word)
        client.close()
threading.Thread(target=loop, daemon=True).start()
with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
with open('haproxy.cfg', 'w') as config:
    config.write(f'''global
  stats socket {os.getcwd()}/stats.sock level admin
defaults
  mode tcp
  timeout connect 1s
  timeout client 2s
  timeout server 2s
backend b
  server s 127.0.0.1:{port} agent-check agent-port {agent.getsockname()[1]} agent-inter 100ms
''')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that HAProxy is stopped below
proxy = subprocess.Popen(['haproxy', '-f', 'haproxy.cfg', '-db'], stderr=subprocess.DEVNULL)
def state():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect('stats.sock')
        client.sendall(b'show stat\n')
        rows = client.makefile().read().splitlines()
    names = rows[0].lstrip('# ').split(',')
    return next(dict(zip(names, row.split(','))) for row in rows if row.startswith('b,s,'))['status']
try:
    for _ in range(50):  # until HAProxy listens
        time.sleep(0.1)
        try:
            state()
            break
        except (ConnectionRefusedError, FileNotFoundError):
            pass
    for word in (b'up ready\n', b'down #full\n', b'up\n', b'down#full\n', b'down', b'down\n', b'up\n',
                 b'drain\n', b'up\n', b'ready\n', b'maint\n', b'up\n', b'up ready\n'):
        time.sleep(0.6)
        print(f'{word!r}: {state()}')
finally:
    proxy.terminate()
    proxy.wait()
PY
out=$(timeout 40 python3 agent.py || true)
printf '%s\n' "$out"
recorded="b'up ready\\n': no check
b'down #full\\n': DOWN (agent)
b'up\\n': no check
b'down#full\\n': no check
b'down': no check
b'down\\n': DOWN (agent)
b'up\\n': no check
b'drain\\n': DRAIN (agent)
b'up\\n': DRAIN (agent)
b'ready\\n': no check
b'maint\\n': MAINT
b'up\\n': MAINT
b'up ready\\n': no check"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
