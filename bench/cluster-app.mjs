// Node's own `cluster`: WORKERS workers (default: two), round robin, with the stdin and stdout protocol of
// `test/programs/recording-backend.mjs`. The first worker is the one that gets stuck.
import cluster from 'node:cluster'
import { openSync, writeSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'

const now = () => Number(process.hrtime.bigint()) / 1e6
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

function primary() {
  cluster.schedulingPolicy = cluster.SCHED_RR
  const workers = Array.from({ length: Number(process.env.WORKERS ?? 2) }, () => cluster.fork())
  const [victim] = workers
  let listening = 0
  cluster.on('listening', (_worker, { port }) => {
    listening += 1
    if (listening === workers.length) say('registered', { port })
  })
  const input = createInterface({ input: process.stdin })
  input.on('line', (line) => {
    if (line.startsWith('busy ')) victim.send(line)
  })
  input.on('close', () => {
    for (const { process: child } of workers) child.kill('SIGKILL')
    process.exit()
  })
}

function serve() {
  const adoptions = openSync(process.env.ADOPTIONS, 'a')
  const server = http.createServer((_request, response) => response.end(`${process.pid}\n`))
  server.on('connection', ({ remotePort }) => writeSync(adoptions, `${process.pid} ${remotePort} ${now()}\n`))
  server.listen(0, '127.0.0.1')
  process.on('message', (line) => {
    const from = now()
    say('busy', { from })
    while (now() < from + Number(line.split(' ')[1]));
    say('idle', { until: now() })
  })
}

if (cluster.isPrimary) primary()
else serve()
