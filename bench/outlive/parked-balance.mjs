// node bench/outlive/parked-balance.mjs [--seconds 10] [--rounds 5] [--rate 500] [--quick]
//
// With `parkAfter: "0ms"` each request of a kept connection goes to the backend that is best then. 16 kept clients of unequal load on four
// backends: how the requests are spread; and the CPU time of a request in broker and apps, beside HAProxy in http mode under the same load, in
// turns. For comparison, Baton without `parkAfter`. Exits with 1 if a backend has over 10 % more or fewer requests than the mean; with --quick it only prints.
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import * as haproxy from '../peers/haproxy.mjs'
import { LeftOut } from '../peers/peer.mjs'
import { runningTime } from '../processor-time.mjs'
import { endOnSignals, program } from '../scratch.mjs'
import { median } from '../statistics.mjs'

const BACKENDS = 4
const CLIENTS = 16
const MOST_SPREAD = 0.1

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    rounds: { type: 'string' },
    rate: { type: 'string', default: '500' },
    quick: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds ?? (values.quick ? 3 : 10))
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5))
endOnSignals()

async function baton(service) {
  const broker = await startBroker({ service })
  const env = { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', QUIET: '1' }
  const apps = Array.from(
    { length: BACKENDS },
    () => new SpeakingChild(program('bench/outlive/app.mjs'), { env }),
  )
  for (const app of apps) await app.message('ready')
  return {
    port: broker.port,
    brokerPids: [broker.child.pid, broker.pid],
    appPids: apps.map(({ pid }) => pid),
    async stop() {
      for (const app of apps) app.kill('SIGKILL')
      await broker.stop()
    },
  }
}

async function haproxyPeer() {
  const peer = await haproxy.startHttp({ backends: BACKENDS })
  const of = (role) => peer.processes.filter((each) => each.role === role).map(({ pid }) => pid)
  return { port: peer.port, brokerPids: of('broker'), appPids: of('backend'), stop: () => peer.stop() }
}

const PEERS = {
  'parkAfter 0ms': () => baton({ parkAfter: '0ms' }),
  'without parkAfter': () => baton({}),
  'HAProxy http': haproxyPeer,
}
/** @type {Map<string, Awaited<ReturnType<typeof baton>> & { load: SpeakingChild, samples: object[] }>} */
const running = new Map()
for (const [name, start] of Object.entries(PEERS)) {
  try {
    const peer = await start()
    const args = [
      '--api-port',
      peer.port,
      '--apis',
      CLIENTS,
      '--rate',
      values.rate,
      '--plain',
      '--unequal',
      '--any-answer',
    ].map(String)
    const load = new SpeakingChild(program('bench/outlive/clients.mjs'), { args })
    await load.message('connected')
    running.set(name, { ...peer, load, samples: [] })
  } catch (error) {
    if (!(error instanceof LeftOut)) throw error
    console.log(`${name}: left out: ${error.message}`)
  }
}

for (let round = 0; round <= rounds; round++)
  for (const peer of running.values()) {
    const costs = () => [runningTime(peer.brokerPids), runningTime(peer.appPids)]
    const before = costs()
    peer.load.tell('go')
    await elapsed(seconds * 1000)
    peer.load.tell('rest')
    const { api } = await peer.load.message('counted')
    const [broker, apps] = costs().map((cost, index) => (cost - before[index]) / api.answered)
    const { ended, failed, lost, unanswered } = api
    if (ended + failed + lost + unanswered > 0) throw new Error(`requests failed: ${JSON.stringify(api)}`)
    const counts = peer.appPids.map((pid) => api.byProcess[pid] ?? 0)
    // The first round compiles the code.
    if (round > 0) peer.samples.push({ broker, apps, counts, answered: api.answered })
  }

console.log(
  `${CLIENTS} kept clients of unequal load, ${values.rate} requests/s, ${BACKENDS} backends; CPU time of a request in microseconds, medians of ${rounds} rounds\n`,
)
console.log('                     requests     broker       apps     in all   requests of each backend')
for (const [name, { samples }] of running) {
  const of = (metric) => median(samples.map(metric)).toFixed(1).padStart(11)
  const requests = samples.reduce((sum, { answered }) => sum + answered, 0)
  const cells = [of((each) => each.broker), of((each) => each.apps), of((each) => each.broker + each.apps)]
  const shares = name.startsWith('HAProxy') ? '' : `   ${countsOf({ samples }).join(' ')}`
  console.log(name.padEnd(20) + String(requests).padStart(9) + cells.join('') + shares)
}
const counts = countsOf(running.get('parkAfter 0ms'))
const mean = counts.reduce((sum, count) => sum + count, 0) / BACKENDS
const spread = Math.max(...counts.map((count) => Math.abs(count - mean) / mean))
const isMet = spread <= MOST_SPREAD
console.log(
  `\nfarthest from the mean with parkAfter 0ms: ${(100 * spread).toFixed(1)} %, target at most ${100 * MOST_SPREAD} %: ${isMet ? 'met' : 'NOT met'}`,
)
for (const peer of running.values()) {
  peer.load.kill('SIGKILL')
  await peer.stop()
}
process.exit(values.quick || isMet ? 0 : 1)

/** Requests of each backend, over all rounds. */
function countsOf({ samples }) {
  return samples[0].counts.map((_, index) => samples.reduce((sum, each) => sum + each.counts[index], 0))
}
