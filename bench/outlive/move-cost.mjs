// node bench/outlive/move-cost.mjs [--node LINE]... [--rounds N] [--quick]
//
// CPU time of a move in giver, broker (master and worker) and successor together, on the newest release of Node's lines 20 and 24, or of those
// that --node names (`--node current`: the one that runs this).
//
// Two processes drain in turns and register again, so that connections go to and fro between processes whose code is compiled. The idle ones
// are then all asked for something, because they move on with their next request. From that is taken what as many drains cost without a
// connection, and as many requests without a drain: what is left is what one more connection costs. For comparison: what a new connection costs, without its request.
//
// `first`: the first drain of each of the two processes, with everything in it: code that runs for the first time, and what a drain costs without a
// connection. That is what a deploy has.
//
// Exits with 1 if a move costs more than its target; with --quick it only prints.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { installedNode } from '../../scripts/node-release.mjs'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import { runningTime } from '../processor-time.mjs'
import { endOnSignals, program } from '../scratch.mjs'
import { median } from '../statistics.mjs'

/** Microseconds; that of WebSockets is for Node 24. */
const IDLE_TARGET = 50
const WEBSOCKET_TARGET = { line: '24', atMost: 150 }

const { values } = parseArgs({
  options: {
    node: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
const lines = values.node ?? (values.quick ? ['current'] : ['20', '24'])
const rounds = Number(values.rounds ?? (values.quick ? 2 : 7))
const CONNECTIONS = 200
/** Of the first drains. */
const FIRST_CONNECTIONS = 500
/** Drains of each process in a round. */
const DRAINS = values.quick ? 5 : 15

const less = (after, before) =>
  Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - before[name]]))
const column = (value) => value.toFixed(1).padStart(12)

if (lines.length !== 1 || lines[0] !== 'current') process.exit(onEachLine() ? 0 : 1)
endOnSignals()
process.exit((await onThisNode()) ? 0 : 1)

/** Everything runs on the Node that runs this file. */
function onEachLine() {
  const options = ['--node', 'current', '--rounds', rounds, ...(values.quick ? ['--quick'] : [])].map(String)
  return lines
    .map((line) => {
      const node = line === 'current' ? process.execPath : join(installedNode(line).bin, 'node')
      return spawnSync(node, [fileURLToPath(import.meta.url), ...options], { stdio: 'inherit' }).status === 0
    })
    .every(Boolean)
}

async function onThisNode() {
  console.log(`Node ${process.version}: microseconds of CPU time for each move\n`)
  const idle = await movesOf('idle', '--apis', '--api-port')
  const webSockets = await movesOf('replay', '--chats', '--chat-port')
  const [line] = process.versions.node.split('.')
  const verdicts = [
    verdict('idle connection', idle, IDLE_TARGET),
    verdict('WebSocket', webSockets, line === WEBSOCKET_TARGET.line ? WEBSOCKET_TARGET.atMost : undefined),
  ]
  console.log('')
  return values.quick || verdicts.every(Boolean)
}

function verdict(name, costs, target) {
  const cost = median(costs)
  const range = `${Math.min(...costs).toFixed(0)} to ${Math.max(...costs).toFixed(0)}`
  const judged = target === undefined ? '' : `, target ${target}: ${cost <= target ? 'met' : 'NOT met'}`
  console.log(`${name}: median ${cost.toFixed(0)} (${range})${judged}`)
  return target === undefined || cost <= target
}

/** Each move's part of the costs, less those of `without`. */
function eachOf({ costs, moves }, ...without) {
  const { master, worker, apps } = without.reduce((rest, other) => less(rest, other.costs), costs)
  return {
    moves,
    all: (master + worker + apps) / moves,
    master: master / moves,
    worker: worker / moves,
    apps: apps / moves,
  }
}

function print(name, { moves, all, master, worker, apps, fresh }) {
  console.log(
    name.padEnd(18) +
      String(moves).padStart(8) +
      [all, master, worker, apps].map(column).join('') +
      (fresh === undefined ? '' : fresh.toFixed(1).padStart(18)),
  )
}

/** A broker with two backends. */
async function startPair() {
  const broker = await startBroker({ service: { holdTimeout: '10m' } })
  const env = { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', QUIET: '1', QUIET_MOVES: '1', STAY: '1' }
  const backends = [0, 1].map(() => new SpeakingChild(program('bench/outlive/app.mjs'), { env }))
  for (const backend of backends) await backend.message('ready')
  return {
    broker,
    backends,
    costs: () => ({
      master: runningTime([broker.child.pid]),
      worker: runningTime([broker.pid]),
      apps: runningTime(backends.map(({ pid }) => pid)),
    }),
    /** @param {'idle' | 'replay'} kind */
    async moves(kind) {
      const series = `^baton_connections_handed_back_total\\{service="web",kind="${kind}",result="taken"\\} (\\d+)$`
      return Number(new RegExp(series, 'm').exec(await broker.metrics())?.[1] ?? 0)
    },
    async stop() {
      for (const backend of backends) backend.kill('SIGKILL')
      await broker.stop()
    },
  }
}

async function bothReady({ broker }) {
  for (;;) {
    const [{ backends }] = (await broker.status()).services
    if (backends.filter(({ state }) => state === 'ready').length === 2) return
    await elapsed(5)
  }
}

/** @param {'idle' | 'replay'} kind @param {string} count @param {string} port options of clients.mjs */
async function movesOf(kind, count, port) {
  const pair = await startPair()
  let load
  const connect = async (connections) => {
    const args = [count, connections, port, pair.broker.port, '--plain'].map(String)
    load = new SpeakingChild(program('bench/outlive/clients.mjs'), { args })
    await load.message('connected')
  }
  /** Every connection is there, and serves. */
  const disconnect = async () => {
    load.tell('rest')
    const { ended, failed, lost, unanswered } = (await load.message('counted'))[
      kind === 'idle' ? 'api' : 'chat'
    ]
    if (ended + failed + lost + unanswered > 0) throw new Error('connections have ended, or had no answer')
    load.tell('end')
    await load.exited
    load = undefined
  }
  const ask = async () => {
    if (load === undefined || kind === 'replay') return
    load.tell('ask')
    await load.message('asked')
  }
  const renew = async () => {
    load.tell('renew')
    await load.message('asked')
  }
  /** The cost of `work`, done once for each process of each drain, and the number of connections that it moves. */
  const measured = async (work, drains = DRAINS) => {
    // Reading the metrics costs the broker something: outside what is measured.
    const [movesBefore, before] = [await pair.moves(kind), pair.costs()]
    for (let drain = 0; drain < drains; drain++) for (const backend of pair.backends) await work(backend)
    const costs = less(pair.costs(), before)
    return { costs, moves: (await pair.moves(kind)) - movesBefore }
  }
  /** All that this process has goes to the other one, which hands some back when this one registers again. */
  const toAndFro = async (backend) => {
    await bothReady(pair)
    backend.tell('drain')
    await backend.message('drained')
    backend.tell('serve')
    await backend.message('ready')
    await ask()
  }
  const first = async () => {
    await connect(FIRST_CONNECTIONS)
    await ask()
    const asked = await measured(ask, 1)
    const moved = await measured(toAndFro, 1)
    await disconnect()
    return eachOf(moved, asked)
  }
  const round = async () => {
    const empty = await measured(toAndFro)
    await connect(CONNECTIONS)
    const asked = await measured(ask)
    const moved = await measured(toAndFro)
    const renewed = kind === 'idle' ? await measured(renew) : undefined
    await disconnect()
    // As many looks at the status are in `empty` as in `moved`; what is between two rounds is in neither.
    const each = eachOf(moved, empty, asked)
    if (renewed === undefined) return each
    const connections = CONNECTIONS * DRAINS * pair.backends.length
    const { master, worker, apps } = less(renewed.costs, asked.costs)
    return { ...each, fresh: (master + worker + apps) / connections }
  }
  console.log(
    `${(kind === 'idle' ? 'idle connections' : 'WebSockets').padEnd(18)}   moves      in all      master      worker   both apps${kind === 'idle' ? '  a new connection' : ''}`,
  )
  print('first', await first())
  await round()
  const seen = []
  for (let number = 1; number <= rounds; number++) {
    const each = await round()
    seen.push(each.all)
    print(`round ${number}`, each)
  }
  await pair.stop()
  console.log('')
  return seen
}
