#!/usr/bin/env bash
# HAProxy ends a chunked answer that its server cut as a complete HTTP/2 answer.
#
# Expected: a chunked answer without its last chunk is incomplete; a proxy passes that on, by RST_STREAM in HTTP/2 and by
#   a missing last chunk in HTTP/1.1.
# Seen: the server closes, or resets, the connection in the middle of a chunked answer. HAProxy 2.6 gives its HTTP/2
#   clients the half with END_STREAM, and curl exits with 0. With a Content-Length the stream ends in the same way, but
#   the client can compare (curl 92). On an HTTP/1.1 front of the same configuration curl reports all cuts (18). nginx
#   resets the stream in all cases.
# Why it matters: when a backend dies in the middle of an answer or an event stream, clients behind HTTP/2 take half of
#   it for the whole, and do not try again. Send Content-Length where completeness matters.
# Documentation: RFC 9112, section 8: a chunked message is incomplete without the chunk of size zero
#   (https://www.rfc-editor.org/rfc/rfc9112#section-8). HAProxy's manual lists a server's abort in the middle of
#   an answer as SD in the log, and says nothing of HTTP/2 clients. h2o pull request 1031 changed the same in that proxy.
# Versions: HAProxy 2.6.12, nginx 1.22.1, and the curl that is installed.
set -euo pipefail
for program in haproxy nginx python3 curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
curl --version | grep -q HTTP2 || { echo "needs curl with HTTP/2"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
echo "$(haproxy -v | cut -d' ' -f1-3 | sed -n 1p), $(nginx -v 2>&1), $(curl --version | cut -d' ' -f1,2 | sed -n 1p)"
cat > cut.py <<'PY'
import os, signal, socket, struct, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # so that the proxies are stopped below
def free():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]
listener = socket.create_server(('127.0.0.1', 0))
server = listener.getsockname()[1]
def serve(client):
    with client:
        path = client.recv(65536).split(b' ')[1:2]
        if not path:
            return # the connection that looked whether a proxy listens
        framing, how = path[0].decode().strip('/').split('-')
        if framing == 'chunked':
            client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n')
        else:
            client.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\nhalf' % (4 if how == 'whole' else 8))
        time.sleep(0.2) # the proxy has passed it on
        if how == 'whole' and framing == 'chunked':
            client.sendall(b'0\r\n\r\n')
        elif how == 'RST':
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
ports = {('haproxy', 1): free(), ('haproxy', 2): free(), ('nginx', 1): free(), ('nginx', 2): free()}
with open('haproxy.cfg', 'w') as config:
    config.write(f'''defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend f
  bind 127.0.0.1:{ports['haproxy', 1]}
  bind 127.0.0.1:{ports['haproxy', 2]} proto h2
  default_backend b
backend b
  server s 127.0.0.1:{server}
''')
with open('nginx.conf', 'w') as config:
    config.write(f'''daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{ports['nginx', 1]};
    listen 127.0.0.1:{ports['nginx', 2]} http2;
    location / {{ proxy_pass http://127.0.0.1:{server}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
''')
proxies = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
           for command in (['haproxy', '-db', '-f', 'haproxy.cfg'], ['nginx', '-p', os.getcwd(), '-c', 'nginx.conf'])]
def end_of_stream(port, path):
    '''how the stream of a GET ends: a client of HTTP/2 frames'''
    def frame(kind, flags, stream, payload=b''):
        return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
    def field(index, value): # a literal with an indexed name
        return bytes([index, len(value)]) + value
    # 0x82: GET; 0x86: http; then :authority and :path
    headers = b'\x82\x86' + field(1, b'example.com') + field(4, path.encode())
    with socket.create_connection(('127.0.0.1', port), timeout=10) as client:
        client.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0) + frame(1, 5, 1, headers))
        source = client.makefile('rb')
        while head := source.read(9):
            payload = source.read(int.from_bytes(head[:3], 'big'))
            kind, flags = head[3], head[4]
            if kind == 4 and not flags & 1:
                client.sendall(frame(4, 1, 0))
            elif kind in (0, 1) and flags & 1:
                return 'END_STREAM'
            elif kind == 3:
                return 'RST_STREAM'
    return 'nothing'
try:
    for port in ports.values():
        for _ in range(100): # until the proxy listens
            try:
                with socket.create_connection(('127.0.0.1', port)):
                    break
            except ConnectionRefusedError:
                time.sleep(0.1)
    for (proxy, version), port in ports.items():
        for framing in ('length', 'chunked'):
            ends = []
            for how in ('whole', 'FIN', 'RST'):
                option = ['--http2-prior-knowledge'] if version == 2 else []
                result = subprocess.run(['curl', '-s', '-m', '10', '-o', '/dev/null', *option, f'http://127.0.0.1:{port}/{framing}-{how}'])
                stream = f' after {end_of_stream(port, f"/{framing}-{how}")}' if version == 2 else ''
                ends.append(f'{how}: curl {result.returncode}{stream}')
            print(f'{proxy}, HTTP/{version}, {framing}: {", ".join(ends)}')
finally:
    for proxy in proxies:
        proxy.terminate()
        proxy.wait()
PY
out=$(timeout 60 python3 cut.py || true)
printf '%s\n' "$out"
recorded='haproxy, HTTP/1, length: whole: curl 0, FIN: curl 18, RST: curl 18
haproxy, HTTP/1, chunked: whole: curl 0, FIN: curl 18, RST: curl 18
haproxy, HTTP/2, length: whole: curl 0 after END_STREAM, FIN: curl 92 after END_STREAM, RST: curl 92 after END_STREAM
haproxy, HTTP/2, chunked: whole: curl 0 after END_STREAM, FIN: curl 0 after END_STREAM, RST: curl 0 after END_STREAM
nginx, HTTP/1, length: whole: curl 0, FIN: curl 18, RST: curl 18
nginx, HTTP/1, chunked: whole: curl 0, FIN: curl 18, RST: curl 18
nginx, HTTP/2, length: whole: curl 0 after END_STREAM, FIN: curl 92 after RST_STREAM, RST: curl 92 after RST_STREAM
nginx, HTTP/2, chunked: whole: curl 0 after END_STREAM, FIN: curl 92 after RST_STREAM, RST: curl 92 after RST_STREAM'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
