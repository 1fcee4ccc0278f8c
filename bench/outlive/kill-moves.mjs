// node bench/outlive/kill-moves.mjs [--moves 10000] [--clients 100] [--seed S] [--quick]
//
// SIGKILL of the giver, a successor, the worker or the master at random moments while connections move, WebSockets and idle ones. Exits with 1
// if a connection was served by two processes, if one that survived lost, doubled or changed anything, or if one ended for which no
// process was killed. Those that ended are counted by cause.
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Random } from '../../test/chaos/random.mjs'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import { onlyWorker } from '../master.mjs'
import { endOnSignals, freePort, program, temporaryFolder } from '../scratch.mjs'
import { micros, Totals } from './totals.mjs'

const { values } = parseArgs({
  options: {
    moves: { type: 'string' },
    clients: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    quick: { type: 'boolean', default: false },
  },
})
const wanted = Number(values.moves ?? (values.quick ? 500 : 10_000))
/** Ready at a time, beside the successor that comes. */
const REGISTERED = 2
/** From the order to drain to the kill, at most: milliseconds. A whole drain takes about as long. */
const MOMENT = 60
/** Rounds between two moments at which everything is answered and checked. */
const LEG = 5
const ROLES = ['giver', 'successor', 'worker', 'master', 'none']
/**
 * How long after a kill a connection may still end because of it: milliseconds. The kernel closes what a process had at once; the worker
 * of a master that was killed lives on until its clients are handed off.
 */
const GRACE = { giver: 2000, successor: 2000, worker: 2000, master: 35_000 }
/** A giver that has lost its broker hands the rest to the next one, and cuts what it still has when this is over. Milliseconds. */
const DRAIN_DEADLINE = 3000

endOnSignals()
const random = new Random(Number(values.seed))
const folder = temporaryFolder()
const port = await freePort()
const start = () =>
  startBroker({
    folder,
    config: {
      listeners: [{ name: 'web', listen: `127.0.0.1:${port}`, protocol: 'http', service: 'web' }],
      services: { web: { holdTimeout: '10m' } },
    },
  })
let broker = await start()

/** Ready ones, oldest first. */
const backends = []
async function startBackend() {
  const env = {
    BATON_SOCKET: broker.control,
    BATON_SERVICE: 'web',
    QUIET: '1',
    PUSHES_PER_SECOND: '50',
    DRAIN_DEADLINE: String(DRAIN_DEADLINE),
  }
  const backend = new SpeakingChild(program('bench/outlive/app.mjs'), { env })
  await backend.message('ready')
  backends.push(backend)
  return backend
}
while (backends.length < REGISTERED) await startBackend()

const load = new SpeakingChild(program('bench/outlive/clients.mjs'), {
  args: [
    '--chat-port',
    port,
    '--api-port',
    port,
    '--chats',
    values.clients,
    '--apis',
    values.clients,
    '--rate',
    '500',
    '--note-ends',
  ].map(String),
})
await load.message('connected')

/** `giver`: the pid of the process that was draining then. @type {{ role: string, pid: number, giver: number, at: number }[]} */
const killed = []
const totals = { chat: new Totals(), api: new Totals() }
const ends = []
let unanswered = 0
const begun = performance.now()
let moved = 0
for (let round = 0; moved < wanted;) {
  load.tell('go')
  let inLeg = 0
  for (let left = LEG; left > 0 && moved + inLeg < wanted; left--, round++) {
    await oneRound(ROLES[round % ROLES.length])
    load.tell('moves')
    inLeg = (await load.message('moves')).count
  }
  load.tell('rest')
  const { ends: more, ...counted } = await load.message('counted')
  ends.push(...more)
  for (const name of ['chat', 'api']) {
    totals[name].addSaved(counted[name])
    moved += counted[name].moves
    unanswered += counted[name].unanswered
  }
  console.error(
    `${moved} moves, ${killed.length} kills, ${((performance.now() - begun) / 1000).toFixed(0)} s`,
  )
}
load.tell('end')
await load.exited
for (const backend of backends) backend.kill('SIGKILL')
await broker.stop()
report()

/** A process comes, the oldest one drains, and at some moment one of those that take part is killed. */
async function oneRound(role) {
  const successor = await startBackend()
  await allRegistered()
  const giver = backends.shift()
  giver.tell('drain')
  await elapsed(random.next() * MOMENT)
  if (role === 'giver') kill(role, giver, giver)
  if (role === 'successor') kill(role, successor, giver)
  if (role === 'worker') {
    const worker = await onlyWorker(broker)
    kill(role, { pid: worker, kill: (signal) => process.kill(worker, signal) }, giver)
    while ((await onlyWorker(broker).catch(() => worker)) === worker) await elapsed(5)
  }
  if (role === 'master') {
    kill(role, broker.child, giver)
    await broker.child.exited
    broker = await start()
  }
  await giver.exited
  if (role === 'successor') backends.splice(backends.indexOf(successor), 1)
  while (backends.length < REGISTERED) await startBackend()
  await allRegistered()
}

function kill(role, victim, giver) {
  killed.push({ role, pid: victim.pid, giver: giver.pid, at: micros() })
  victim.kill('SIGKILL')
}

async function readyPids() {
  const [{ backends: known }] = (await broker.status()).services
  return known.filter(({ state }) => state === 'ready').map(({ pid }) => pid)
}

/** After the death of a worker or a master they dial again. */
async function allRegistered() {
  for (;;) {
    const pids = await readyPids().catch(() => [])
    if (backends.every(({ pid }) => pids.includes(pid))) return
    await elapsed(10)
  }
}

/** Why a connection has ended, or undefined. */
function causeOf({ at, pid, isAnnounced, closeCode }) {
  const lonely = killed.find(
    (each) => each.giver === pid && ['worker', 'master'].includes(each.role) && each.at <= at,
  )
  if (lonely !== undefined && !isAnnounced && at - lonely.at > 500 * DRAIN_DEADLINE)
    return `cut at the drain deadline of a giver whose ${lonely.role} was killed`
  const recent = killed.filter((each) => each.at <= at && at - each.at < 1000 * GRACE[each.role])
  const own = recent.find((each) => each.pid === pid)
  if (own !== undefined) return `its process, a ${own.role}, was killed`
  // The kill of a process ends connections at once, that of a master later.
  const [last] = recent.toSorted(
    (a, b) => Number(a.role === 'master') - Number(b.role === 'master') || b.at - a.at,
  )
  if (last === undefined) return undefined
  if (isAnnounced) return `announced by Connection: close, after the kill of the ${last.role}`
  if (closeCode !== undefined) return `closed with code ${closeCode}, after the kill of the ${last.role}`
  return `on its way when the ${last.role} was killed`
}

function row(name, value) {
  console.log(`${name.padEnd(70)}${value}`)
}

function report() {
  row('moves', `${moved} in ${((performance.now() - begun) / 1000).toFixed(0)} s, seed ${values.seed}`)
  for (const role of ROLES.slice(0, -1))
    row(`kills of a ${role}`, killed.filter((each) => each.role === role).length)
  for (const [name, what] of [
    ['chat', 'WebSocket'],
    ['api', 'HTTP'],
  ]) {
    row(`${what}: messages or requests answered`, totals[name].answered)
    row(`${what}: connections that ended`, ends.filter((end) => end.name === name).length)
    const causes = new Map()
    for (const end of ends.filter((each) => each.name === name)) {
      const cause = causeOf(end) ?? 'NO PROCESS WAS KILLED'
      const seen = causes.get(cause) ?? { connections: 0, messages: 0 }
      causes.set(cause, { connections: seen.connections + 1, messages: seen.messages + end.unanswered })
    }
    for (const [cause, { connections, messages }] of [...causes].toSorted(([a], [b]) => (a < b ? -1 : 1)))
      row(`  ${cause}`, `${connections}, with ${messages} unanswered`)
  }
  const broken = {
    'connections served by two processes': totals.chat.twoOwners + totals.api.twoOwners,
    'lost on a connection that lives': totals.chat.lost + totals.api.lost + unanswered,
    doubled: totals.chat.doubled + totals.api.doubled,
    reordered: totals.chat.reordered + totals.api.reordered,
    'wrong content': totals.chat.wrong + totals.api.wrong,
    'ended, and no process was killed': ends.filter((end) => causeOf(end) === undefined).length,
  }
  for (const [name, count] of Object.entries(broken)) row(name, count)
  const faults = [...totals.chat.faults, ...totals.api.faults].filter((words) => !words.startsWith('failed'))
  for (const words of faults.slice(0, 10)) console.log(words)
  process.exit(Object.values(broken).every((count) => count === 0) ? 0 : 1)
}
