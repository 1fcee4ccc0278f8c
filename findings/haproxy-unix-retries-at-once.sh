#!/usr/bin/env bash
# HAProxy makes its connection retries to a Unix path within milliseconds; the pause of a second is for TCP only.
#
# Expected: with `retries 3` a server that is gone for a second is tried again until it is back, by TCP and by a Unix
#   path.
# Seen: to a TCP port without a listener HAProxy 2.6 makes three retries with a second between them, and a request
#   during a restart of 1.5 s is answered. To a Unix path it makes the same three retries at once, and answers 503 after
#   a few milliseconds. Its log says 3 retries for both.
# Why it matters: an app that is moved from a port to a Unix path, which looks like the same with less overhead, loses
#   all requests of each restart. Keep the listener open over restarts, as a broker or systemd does.
# Documentation: the configuration manual of HAProxy 2.6 (retries) says that a pause of a second, or `timeout connect`
#   if that is shorter, is made before a retry to the same server, so that one that restarts is not tried again
#   immediately; it makes no exception.
# Versions: HAProxy 2.6.12.
set -euo pipefail
for program in haproxy python3 curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
haproxy -v | sed -n 1p
cat > retries.py <<'PY'
import os, signal, socket, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # so that HAProxy is stopped below
def free():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]
path = os.path.abspath('app.sock')
port = free()
fronts = {'tcp': free(), 'unix': free()}
def listen(kind):
    if kind == 'tcp':
        return socket.create_server(('127.0.0.1', port))
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)
    listener.listen()
    return listener
def answer(listener):
    client, _ = listener.accept()
    client.recv(65536)
    client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok')
    client.close()
with open('haproxy.cfg', 'w') as config:
    config.write(f'''defaults
  mode http
  retries 3
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  log stdout format raw local0
  log-format "%HU %rc"
listen tcp
  bind 127.0.0.1:{fronts['tcp']}
  server s 127.0.0.1:{port}
listen unix
  bind 127.0.0.1:{fronts['unix']}
  server s unix@{path}
''')
proxy = subprocess.Popen(['haproxy', '-db', '-f', 'haproxy.cfg'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
def logged(path):
    while True: # the first line is about the connection that looked whether HAProxy listens
        line = proxy.stdout.readline()
        if line.startswith(path + ' '):
            return line.split()[1]
def get(kind, path):
    begun = time.monotonic()
    result = subprocess.run(['curl', '-s', '-m', '18', '-o', '/dev/null', '-w', '%{http_code}', f'http://127.0.0.1:{fronts[kind]}{path}'],
                            stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - begun
    return result.stdout, 'at once' if took < 1 else 'after more than a second', logged(path)
try:
    for _ in range(100): # until HAProxy listens
        try:
            with socket.create_connection(('127.0.0.1', fronts['unix'])):
                break
        except ConnectionRefusedError:
            time.sleep(0.1)
    for kind in fronts:
        listener = listen(kind)
        threading.Thread(target=answer, args=(listener,)).start()
        print(kind, 'with a listener: %s %s, %s retries' % get(kind, f'/{kind}1'))
        listener.close()
        print(kind, 'without a listener: %s %s, %s retries' % get(kind, f'/{kind}2'))
        back = threading.Timer(1.5, lambda: answer(listen(kind)))
        back.daemon = True
        back.start()
        print(kind, 'with a listener after 1.5 s: %s %s' % get(kind, f'/{kind}3')[:2])
        back.join(timeout=3)
finally:
    proxy.terminate()
    proxy.wait()
PY
out=$(timeout 60 python3 retries.py || true)
printf '%s\n' "$out"
recorded='tcp with a listener: 200 at once, 0 retries
tcp without a listener: 503 after more than a second, 3 retries
tcp with a listener after 1.5 s: 200 after more than a second
unix with a listener: 200 at once, 0 retries
unix without a listener: 503 at once, 3 retries
unix with a listener after 1.5 s: 503 at once'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
