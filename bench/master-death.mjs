// node bench/master-death.mjs [--seconds 300] [--rate 500] [--kept 200] [--quick]
//
// SIGKILL of the master every 5 s, and `baton start` 2 s later, under new connections on schedule and kept ones. Exits with 1 if a connection was
// refused or failed, if what the clients have opened is not what broker and apps have counted over all takeovers, or if a managed backend
// was replaced.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { askMaster, onlyWorker } from './master.mjs'
import { endOnSignals, freePort, program, temporaryFolder } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    rate: { type: 'string' },
    kept: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds ?? (values.quick ? 10 : 300))
const rate = values.rate ?? (values.quick ? '100' : '500')
const kept = values.kept ?? (values.quick ? '50' : '200')
/** Between two kills, and from a kill to the next start: milliseconds. */
const EVERY = 5000
const WITHOUT = 2000
const INSTANCES = 2
const TOOK_OVER = 'took over the worker of a master that was killed'

endOnSignals()
const folder = temporaryFolder()
const adopted = join(folder, 'adopted')
const [port, admin] = [await freePort(), await freePort()]
const start = () =>
  startBroker({
    folder,
    // Ctrl-C in a terminal does not reach it.
    wrapper: ['setsid'],
    config: {
      admin: { listen: `127.0.0.1:${admin}` },
      listeners: [{ name: 'web', listen: `127.0.0.1:${port}`, protocol: 'http', service: 'web' }],
      services: {
        web: {
          command: [process.execPath, program('bench/programs/pid-app.mjs')],
          cwd: program('.'),
          env: { ADOPTED: adopted },
          instances: INSTANCES,
          minHealthy: '0s',
        },
      },
    },
  })

let broker = await start()
const pidsAtStart = await managedPids()
const arrivals = new SpeakingChild(program('test/programs/arrivals.mjs'), {
  // On a machine that is too busy for the rate, late ones are better than none.
  args: ['--port', String(port), '--rate', rate, '--max-open', '5000'],
})
await arrivals.message('arriving')
const load = new SpeakingChild(program('test/programs/two-kinds-load.mjs'), {
  args: ['--port', String(port), '--kept', kept, '--fresh', '0', '--pause', '200'],
})
await load.message('loading')

const begun = performance.now()
let takeovers = 0
/** From `baton start` until the new worker accepts: milliseconds. */
const starts = []
const wanted = Math.max(1, Math.floor((seconds * 1000) / EVERY))
for (let kill = 1; kill <= wanted; kill++) {
  await elapsed(Math.max(0, begun + kill * EVERY - performance.now()))
  const { child, forget } = broker
  child.kill('SIGKILL')
  await child.exited
  await elapsed(WITHOUT)
  const from = performance.now()
  broker = await start()
  forget()
  starts.push(performance.now() - from)
  // Logged before the worker accepts.
  takeovers += Number(
    await Promise.race([broker.child.message(TOOK_OVER).then(() => true), elapsed(0, false)]),
  )
  if (kill % 12 === 0) console.error(`${kill} kills, ${((performance.now() - begun) / 1000).toFixed(0)} s`)
}
const took = (performance.now() - begun) / 1000
await onlyWorker(broker)
arrivals.tell('stop')
const { results, latest } = await arrivals.message('done')
load.tell('stop')
const { connections, requests, slowest, failures } = await load.message('done')
const pidsAtEnd = await managedPids()
const counted = await countsAtRest()
await broker.stop()
const byApps = readFileSync(adopted, 'utf8').trimEnd().split('\n').map(Number)

const failed = [
  ...results.filter(([, , , answer]) => typeof answer !== 'number').map(([, , , failure]) => failure),
  ...failures.map(({ failure }) => failure),
]
const isRefused = (failure) => failure.includes('ECONNREFUSED')
const opened = connections + results.length - failed.filter(isRefused).length
const ofApps = byApps.reduce((sum, count) => sum + count, 0)
const samePids = pidsAtStart.join(' ') === pidsAtEnd.join(' ') && byApps.length === INSTANCES
const lines = {
  'kills of the master': `${wanted} in ${took.toFixed(0)} s`,
  takeovers,
  'new connections, one request each': `${results.length}, at most ${latest.toFixed(0)} ms behind schedule`,
  'requests on kept connections': `${requests} on ${connections}`,
  'refused connections': failed.filter(isRefused).length,
  'other failures': failed.filter((failure) => !isRefused(failure)).length,
  'connections opened by clients': opened,
  'counted as accepted': counted.accepted,
  'counted as handed back': counted.handedBack,
  ...counted.outcomes,
  'adopted by the apps': ofApps,
  'worker deaths counted': counted.deaths,
  'the same managed backends': samePids,
  'slowest request, milliseconds': results
    .reduce((most, [, , wait]) => Math.max(most, wait), slowest)
    .toFixed(0),
  'from start to the first accept, worst, milliseconds': Math.max(...starts).toFixed(0),
}
for (const [name, value] of Object.entries(lines)) console.log(`${name.padEnd(54)}${value}`)
const causes = new Map()
for (const failure of failed) causes.set(failure, (causes.get(failure) ?? 0) + 1)
for (const [failure, count] of causes) console.log(`${failure}: ${count}`)
const ended = Object.values(counted.outcomes).reduce((sum, count) => sum + count, 0)
const isExact =
  counted.accepted === opened &&
  ended === counted.accepted + counted.handedBack &&
  ofApps === counted.outcomes.handed_off + counted.outcomes.relayed
const good = failed.length === 0 && isExact && samePids && takeovers === wanted && counted.deaths === 0
process.exit(good ? 0 : 1)

async function managedPids() {
  for (;;) {
    const { managed } = JSON.parse(await askMaster(broker, 'status'))
    const [{ backends }] = (await broker.status()).services
    const ready = backends.filter(({ state }) => state === 'ready').map(({ pid }) => pid)
    const pids = managed.map(({ pid }) => pid)
    if (pids.length === INSTANCES && pids.every((pid) => ready.includes(pid)))
      return pids.toSorted((a, b) => a - b)
    await elapsed(20)
  }
}

/** Of all workers so far, once no connection waits or is on its way. */
async function countsAtRest() {
  for (;;) {
    const samples = new Map()
    for (const line of (await broker.metrics()).split('\n')) {
      const [, series, value] = /^baton_(\S+) (\d+)$/.exec(line) ?? []
      if (series !== undefined) samples.set(series, Number(value))
    }
    const count = (name) => samples.get(`${name}{service="web"}`)
    if (count('connections_held') + count('handoffs_in_flight') + count('connections_parked') === 0) {
      const outcomes = {}
      let handedBack = 0
      for (const [series, value] of samples) {
        const outcome = /^connections_total\{service="web",outcome="(\w+)"\}$/.exec(series)?.[1]
        if (outcome !== undefined) outcomes[outcome] = value
        if (/^connections_handed_back_total\{.*result="taken"\}$/.test(series)) handedBack += value
      }
      const accepted = samples.get('connections_accepted_total{listener="web"}')
      return { accepted, handedBack, outcomes, deaths: samples.get('worker_deaths_total') }
    }
    await elapsed(20)
  }
}
