// node bench/worker-gap.mjs [--kills 10] [--quick]
//
// How long new clients wait after a SIGKILL of the worker: it has served for some time, so that its successor starts at once. New
// connections with one request each, one after another; the slowest of them spans the gap. Beside the start of an empty program.
import { spawnSync } from 'node:child_process'
import { connect } from 'node:net'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startBroker } from './broker.mjs'
import { onlyWorker } from './master.mjs'
import { startApps } from './peers/peer.mjs'
import { endOnSignals } from './scratch.mjs'
import { summary } from './statistics.mjs'

const { values } = parseArgs({
  options: { kills: { type: 'string' }, quick: { type: 'boolean', default: false } },
})
const kills = Number(values.kills ?? (values.quick ? 2 : 10))
/** A worker that has served for this long, in ms, is replaced without a pause. */
const SERVES_MS = 12_000
/** Longer than any gap, in ms. */
const WATCHED_MS = 3000
const REQUEST = 'GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n'

endOnSignals()
// Node 20 reads the certificates that it names at each start, which takes longer than the rest of an empty program.
delete process.env.NODE_EXTRA_CA_CERTS
const broker = await startBroker()
const apps = await startApps({
  count: 2,
  mode: 'attach',
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
})

/** Resolves to whether it was answered. */
function ask() {
  return new Promise((resolve) => {
    let isAnswered = false
    const socket = connect(broker.port, '127.0.0.1', () => socket.write(REQUEST))
    socket.on('data', () => (isAnswered = true))
    socket.on('error', () => {})
    socket.on('close', () => resolve(isAnswered))
  })
}

function timed(run) {
  const from = performance.now()
  run()
  return performance.now() - from
}

for (let count = 0; count < 200; count++) await ask()
const gaps = []
const bare = []
let lost = 0
for (let number = 1; number <= kills; number++) {
  await elapsed(SERVES_MS)
  bare.push(timed(() => spawnSync(process.execPath, ['-e', '0'])))
  process.kill(await onlyWorker(broker), 'SIGKILL')
  let slowest = 0
  for (const end = performance.now() + WATCHED_MS; performance.now() < end;) {
    const from = performance.now()
    if (!(await ask())) lost += 1
    slowest = Math.max(slowest, performance.now() - from)
  }
  gaps.push(slowest)
}
await apps.stop()
await broker.stop()

const range = (samples) => {
  const { median, least, most } = summary(samples)
  return `${median.toFixed(0)} ms (${least.toFixed(0)} to ${most.toFixed(0)})`
}
console.log(`node ${process.version}, ${kills} SIGKILLs of a worker`)
console.log(`slowest request, its successor's start within: ${range(gaps)}`)
console.log(`connections that were lost: ${lost}`)
console.log(`start of an empty program: ${range(bare)}`)
// A connection that the worker has accepted and not handed over yet ends with it; one at a time, that is hardly ever one.
process.exit(lost <= kills ? 0 : 1)
