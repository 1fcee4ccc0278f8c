// node bench/waiting-death.mjs [--held 2000] [--parked 14500] [--quick]
//
// SIGKILL of the worker while clients wait in it: first held ones, while no backend is there, then parked ones, whose kept connections are idle. The next
// worker must serve the held ones in the order in which they came, and each parked one at its next request. Exits with 1 if a client failed, if the
// order was another one, or if the counts do not add up.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { onlyWorker } from './master.mjs'
import { endOnSignals, program } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    held: { type: 'string' },
    parked: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
/** A worker parks connections in three quarters of its descriptors, and the master has copies in as many of its own. */
const [, limit] = /^Max open files +\S+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
const room = Math.floor(Number(limit) * 0.75) - 500
const held = Number(values.held ?? (values.quick ? 200 : 2000))
const parked = Number(values.parked ?? (values.quick ? 500 : Math.min(15_000, room)))
/** Clients of one process. */
const CROWD = 5000

endOnSignals()
let isGood = true
console.log(`open files of a process, at most                      ${limit}`)
if (held > 0) await heldClients()
if (parked > 0) await parkedClients()
process.exit(isGood ? 0 : 1)

async function heldClients() {
  // A late ACK would make a relay, which has its own way to the backend, and another place in its order.
  const patient = { ackDeadline: '5m', tokenTtl: '10m' }
  const broker = await startBroker({ service: { holdTimeout: '10m', maxHeld: held, ...patient } })
  const idle = descriptors(broker)
  const crowds = await arrive(broker, held, 'early')
  await untilBrokerHas(broker, 'held', held)
  await copies(broker, idle + held)
  const next = await killWorker(broker)
  await untilBrokerHas(broker, 'held', held)
  const moved = performance.now() - next.at
  const backend = await startBackend(broker)
  const { answered, failures } = await answers(crowds)
  const seconds = (performance.now() - next.at) / 1000
  const adopted = readFileSync(backend.adoptions, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => Number(line.split(' ')[1]))
  const ports = crowds.flatMap((crowd) => crowd.ports)
  const inOrder = adopted.length === held && adopted.every((port, index) => port === ports[index])
  const arrivals = new Map(ports.map((port, index) => [port, index]))
  const places = adopted.map((port) => arrivals.get(port))
  const overtakers = places.filter((place, index) => index > 0 && place < places[index - 1]).length
  await finish(broker, {
    'held clients at the kill': held,
    'held again, milliseconds after the kill': moved.toFixed(0),
    answered: `${answered}, ${seconds.toFixed(1)} s after the kill`,
    failed: describe(failures),
    'adopted in the order of their arrival': inOrder,
    ...(!inOrder && { 'adopted before an earlier one': `${overtakers} times, ${adopted.length} adoptions` }),
  })
  isGood &&= inOrder && answered === held
}

async function parkedClients() {
  const broker = await startBroker({ service: { parkAfter: '0ms' } })
  const idle = descriptors(broker)
  await startBackend(broker)
  const crowds = await arrive(broker, parked, 'late')
  for (const { process } of crowds) process.tell('ask')
  const first = await answers(crowds)
  await untilBrokerHas(broker, 'parked', parked)
  await copies(broker, idle + parked)
  const next = await killWorker(broker)
  await untilBrokerHas(broker, 'parked', parked)
  const moved = performance.now() - next.at
  for (const { process } of crowds) process.tell('ask')
  const { answered, failures } = await answers(crowds)
  await finish(broker, {
    'parked clients at the kill': parked,
    'parked again, milliseconds after the kill': moved.toFixed(0),
    'answered at their next request': answered,
    failed: describe([...first.failures, ...failures]),
  })
  isGood &&= answered === parked && first.answered === parked
}

async function arrive(broker, count, request) {
  const crowds = []
  for (let left = count; left > 0; left -= CROWD) {
    const process = new SpeakingChild(program('bench/programs/crowd.mjs'), {
      env: { PORT: String(broker.port), COUNT: String(Math.min(left, CROWD)), REQUEST: request },
    })
    const { ports } = await process.message('connected')
    crowds.push({ process, ports })
  }
  return crowds
}

async function answers(crowds) {
  const all = await Promise.all(crowds.map(({ process }) => process.message('answered')))
  return {
    answered: all.reduce((sum, each) => sum + each.answered, 0),
    failures: all.flatMap(({ failures }) => failures),
  }
}

async function startBackend(broker) {
  const adoptions = join(broker.folder, 'adoptions')
  const backend = new SpeakingChild(program('test/programs/recording-backend.mjs'), {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ADOPTIONS: adoptions, KEEP_ALIVE: '0' },
  })
  backend.tell('register')
  await backend.message('registered')
  return { adoptions }
}

/** Open descriptors of the master, which has a copy of each connection that waits. */
function descriptors({ child }) {
  return readdirSync(`/proc/${child.pid}/fd`).length
}

async function copies(broker, count) {
  while (descriptors(broker) < count) await elapsed(20)
}

async function untilBrokerHas(broker, what, count) {
  while ((await status(broker)).services[0][what] !== count) await elapsed(20)
}

/** Resolves when the next worker serves. `at`: the time of the kill. */
async function killWorker(broker) {
  const worker = await onlyWorker(broker)
  const at = performance.now()
  process.kill(worker, 'SIGKILL')
  while ((await onlyWorker(broker)) === worker) await elapsed(5)
  return { at }
}

/** On its own connection: a kept one ends with its worker, and may be one too many for the next. */
async function status(broker) {
  for (;;) {
    const answer = await fetch(`${broker.admin}/api/v1/status`, { headers: { connection: 'close' } }).catch(
      () => undefined,
    )
    if (answer?.ok) return answer.json()
    await elapsed(20)
  }
}

async function finish(broker, lines) {
  const text = await (await fetch(`${broker.admin}/metrics`, { headers: { connection: 'close' } })).text()
  const lost = Number(/^baton_connections_total\{.*outcome="lost"\} (\d+)$/m.exec(text)?.[1] ?? 0)
  const counted = sums(text)
  const all = { ...lines, 'counted as lost': lost, 'not accounted for': counted }
  for (const [name, value] of Object.entries(all)) console.log(`${name.padEnd(54)}${value}`)
  isGood &&= lost === 0 && counted === 0
  await broker.stop()
}

/** The invariant of the counters over all workers, at rest: 0. */
function sums(text) {
  let sum = 0
  for (const [, name, labels, value] of text.matchAll(/^baton_(\w+)\{(.*)\} (\d+)$/gm)) {
    if (name === 'connections_accepted_total') sum += Number(value)
    if (name === 'connections_handed_back_total' && labels.includes('"taken"')) sum += Number(value)
    if (['connections_total', 'connections_held', 'connections_parked', 'handoffs_in_flight'].includes(name))
      sum -= Number(value)
  }
  return sum
}

function describe(failures) {
  const causes = new Map()
  for (const failure of failures) causes.set(failure, (causes.get(failure) ?? 0) + 1)
  return [failures.length, ...[...causes].map(([cause, count]) => `${cause}: ${count}`)].join('  ')
}
