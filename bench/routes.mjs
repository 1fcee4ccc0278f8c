// node bench/routes.mjs [--rounds 5] [--connections 10000] [--quick]
//
// What it costs to choose a service by the first bytes: new connections a second with 200 routes, beside none, in interleaved rounds of one run;
// the same by SNI beside HAProxy in tcp mode (`req.ssl_sni`, a map of 200 names), and by host beside HAProxy in http mode. CPU time is that of
// everything in front of the app, and of all.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { needed } from './installed.mjs'
import { ab, hellos } from './load-tools.mjs'
import { listening, startApps } from './peers/peer.mjs'
import { withProcessorTime } from './processor-time.mjs'
import { interleaved } from './rounds.mjs'
import { atEnd, freePort, program, temporaryFolder } from './scratch.mjs'
import { interval95, median, pairedRatios } from './statistics.mjs'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string' },
    connections: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
const ROUNDS = Number(values.rounds ?? (values.quick ? 1 : 5))
const CONNECTIONS = Number(values.connections ?? (values.quick ? 1000 : 10_000))
const CONCURRENCY = 64
const NAMES = Array.from({ length: 200 }, (_, index) => `n${index}.shop.example`)
/** The name in the hello: the last of 200. */
const NAME = NAMES.at(-1)

const folder = temporaryFolder()
const file = (name, content) => {
  writeFileSync(join(folder, name), content)
  return join(folder, name)
}

/** The ClientHello of this Node for a server of that name. */
async function clientHello() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = connectTls({ port: server.address().port, host: '127.0.0.1', servername: NAME })
  client.on('error', () => {})
  const [socket] = await once(server, 'connection')
  const [bytes] = await once(socket, 'data')
  client.destroy()
  server.close()
  return bytes
}
const hello = await clientHello()
const HELLO = file('hello', hello)

const listener = (name, more) => ({ name, listen: '127.0.0.1:0', service: 'web', ...more })
const broker = await startBroker({
  config: {
    listeners: [
      listener('web', { protocol: 'http' }),
      listener('hosts', { protocol: 'http', routes: NAMES.map((host) => ({ host, service: 'web' })) }),
      listener('tcp', { protocol: 'tcp', service: 'raw' }),
      listener('names', {
        protocol: 'tls',
        service: null,
        routes: NAMES.map((sni) => ({ sni, service: 'raw' })),
      }),
    ],
    services: { web: {}, raw: {} },
  },
})
const inFront = [broker.child.pid, broker.pid].map((pid) => ({ role: 'broker', pid }))
const attached = await startApps({
  mode: 'attach',
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
})
const listens = await startApps({ mode: 'listen' })
const raw = async (mode, env = {}) => {
  const child = new SpeakingChild(program('bench/programs/hello-app.mjs'), {
    env: { APP_MODE: mode, ...env },
  })
  atEnd(() => child.kill('SIGKILL'))
  return child.message('serving')
}
const rawAttached = await raw('attach', { BATON_SOCKET: broker.control, BATON_SERVICE: 'raw' })
const rawListens = await raw('listen')

const [namePort, hostPort] = [await freePort(), await freePort()]
const config = `
global
  nbthread 1
  maxconn 8192
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend names
  mode tcp
  bind 127.0.0.1:${namePort} backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if { req.ssl_hello_type 1 }
  use_backend %[req.ssl_sni,lower,map(${file('names', NAMES.map((name) => `${name} raw\n`).join(''))})]
frontend hosts
  mode http
  option http-keep-alive
  bind 127.0.0.1:${hostPort} backlog 4096
  use_backend %[req.hdr(host),host_only,lower,map(${file('hosts', NAMES.map((name) => `${name} web\n`).join(''))},web)]
backend raw
  mode tcp
  server app 127.0.0.1:${rawListens.port}
backend web
  mode http
  http-reuse always
  server app 127.0.0.1:${listens.apps[0].port}
`
const haproxy = spawn(needed('haproxy'), ['-db', '-q', '-f', file('haproxy.cfg', config)], {
  stdio: ['ignore', 'ignore', 'inherit'],
})
atEnd(() => haproxy.kill('SIGTERM'))
await Promise.all([listening(namePort), listening(hostPort)])
const proxy = [{ role: 'broker', pid: haproxy.pid }]

const app = (pid) => ({ role: 'backend', pid })
const peer = (name, port, load, front, pid) => ({ name, port, load, processes: [...front, app(pid)] })
const [web] = attached.processes
const [webListens] = listens.processes
const byHello = (port, connections) => hellos(port, { connections, concurrency: CONCURRENCY, file: HELLO })
const byHead = (port, connections) => ab(port, { connections, concurrency: CONCURRENCY })
const GROUPS = [
  {
    title: 'http: 200 routes by host, beside none',
    peers: [
      peer('Baton, 200 hosts', broker.ports.hosts, byHead, inFront, web.pid),
      peer('Baton, no routes', broker.ports.web, byHead, inFront, web.pid),
      peer('HAProxy http, 200 hosts', hostPort, byHead, proxy, webListens.pid),
    ],
  },
  {
    title: `tls: 200 names by SNI, beside none (a ClientHello of ${hello.length} bytes)`,
    peers: [
      peer('Baton, 200 names', broker.ports.names, byHello, inFront, rawAttached.pid),
      peer('Baton, no routes', broker.ports.tcp, byHello, inFront, rawAttached.pid),
      peer('HAProxy tcp, 200 names', namePort, byHello, proxy, rawListens.pid),
    ],
  },
]

const cell = (value, digits, width = 12) => value.toFixed(digits).padStart(width)
for (const { title, peers } of GROUPS) {
  const samples = await interleaved({
    peers,
    rounds: ROUNDS,
    leaveOut: (name, reason) => console.log(`left out: ${name}: ${reason}`),
    warmUp: ({ port, load }) => load(port, CONNECTIONS),
    sample: async (each) => {
      const {
        result,
        broker: front,
        backend,
      } = await withProcessorTime(each, () => each.load(each.port, CONNECTIONS))
      const micros = 1e6 / CONNECTIONS
      return { perSecond: result.perSecond, front: front * micros, all: (front + backend) * micros }
    },
  })
  console.log(`\n${title}; ${ROUNDS} rounds of ${CONNECTIONS} connections, ${CONCURRENCY} at a time\n`)
  console.log(`${''.padEnd(26)}connections/s  CPU in front, us  CPU in all, us`)
  for (const [name, rows] of samples)
    console.log(
      `${name.padEnd(26)}${cell(median(rows.map(({ perSecond }) => perSecond)), 0, 13)}  ${cell(median(rows.map(({ front }) => front)), 1, 16)}  ${cell(median(rows.map(({ all }) => all)), 1, 14)}`,
    )
  const [baton, ...others] = [...samples]
  for (const [name, rows] of others)
    for (const what of /** @type {const} */ (['perSecond', 'front', 'all'])) {
      const ratios = pairedRatios(
        baton[1].map((row) => row[what]),
        rows.map((row) => row[what]),
      )
      const { low, high } = interval95(ratios) ?? { low: ratios[0], high: ratios[0] }
      console.log(
        `${baton[0]} / ${name}, ${what}: ${median(ratios).toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`,
      )
    }
}
await broker.stop()
process.exit()
