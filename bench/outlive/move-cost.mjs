// node bench/outlive/move-cost.mjs [--node LINE]... [--rounds N] [--quick]
//
// CPU time of a move in giver, broker (master and worker) and successor together, on the newest release of Node's lines 20 and 24, or of those
// that --node names (`--node current`: the one that runs this).
//
// Idle connections: the same requests at the same pace, with `parkAfter: "0ms"`, which moves a connection after each answer, and without;
// the difference for each connection that moved. WebSockets: two processes drain in turns, so that all connections go to and fro; from
// that is taken the cost of as many drains without a connection. Exits with 1 if a move costs more than its target; with --quick it only prints.
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
/** Connections; requests per second, and seconds of a round; drains of each process in a round. */
const IDLE = { connections: 64, rate: 1000, seconds: values.quick ? 3 : 8 }
const WEBSOCKETS = { connections: 200, drains: values.quick ? 5 : 15 }

const less = (after, before) => Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - before[name]]))
const total = (costs) => Object.values(costs).reduce((sum, cost) => sum + cost, 0)
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
  const idle = await idleMoves()
  const webSockets = await webSocketMoves()
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

/** A broker with two backends, and what all their threads have cost so far. */
async function startPair(service) {
  const broker = await startBroker({ service: { ...service, holdTimeout: '10m' } })
  const env = { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', QUIET: '1', QUIET_MOVES: '1', STAY: '1' }
  const backends = [0, 1].map(() => new SpeakingChild(program('bench/outlive/app.mjs'), { env }))
  for (const backend of backends) await backend.message('ready')
  const parts = { broker: [broker.child.pid, broker.pid], giver: [backends[0].pid], successor: [backends[1].pid] }
  return {
    broker,
    backends,
    costs: () => Object.fromEntries(Object.entries(parts).map(([name, pids]) => [name, runningTime(pids)])),
    async moves() {
      const text = await broker.metrics()
      const of = (kind) => Number(new RegExp(`^baton_connections_handed_back_total\\{service="web",kind="${kind}",result="taken"\\} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
      return { idle: of('idle'), replay: of('replay') }
    },
    async stop() {
      for (const backend of backends) backend.kill('SIGKILL')
      await broker.stop()
    },
  }
}

async function idleMoves() {
  const { connections, rate, seconds } = IDLE
  const sides = []
  for (const service of [{ balance: 'round-robin', parkAfter: '0ms' }, { balance: 'round-robin' }]) {
    const pair = await startPair(service)
    const args = ['--api-port', pair.broker.port, '--apis', connections, '--rate', rate, '--plain'].map(String)
    const load = new SpeakingChild(program('bench/outlive/clients.mjs'), { args })
    await load.message('connected')
    sides.push({ pair, load })
  }
  const turn = async ({ pair, load }) => {
    // Reading the metrics costs the broker something: outside what is measured.
    const [movesBefore, before] = [await pair.moves(), pair.costs()]
    load.tell('go')
    await elapsed(seconds * 1000)
    load.tell('rest')
    const { api } = await load.message('counted')
    if (api.ended + api.failed + api.unanswered > 0) throw new Error(`requests failed: ${JSON.stringify(api)}`)
    const costs = less(pair.costs(), before)
    return { costs, answered: api.answered, moves: (await pair.moves()).idle - movesBefore.idle }
  }
  // Warm-up: code is compiled, and heaps have their size.
  for (const side of sides) await turn(side)
  console.log('idle connections   moves      in all      broker  both apps')
  const seen = []
  for (let round = 1; round <= rounds; round++) {
    const [moved, stayed] = [await turn(sides[0]), await turn(sides[1])]
    // Paces differ a little: the cost of a request comes from the side that does not move.
    const each = ({ costs, moves }, name) => (costs[name] - (stayed.costs[name] * moved.answered) / stayed.answered) / moves
    const broker = each(moved, 'broker')
    const apps = each(moved, 'giver') + each(moved, 'successor')
    seen.push(broker + apps)
    console.log(`round ${round}`.padEnd(16) + String(moved.moves).padStart(8) + [broker + apps, broker].map(column).join('') + apps.toFixed(1).padStart(11))
  }
  for (const { pair, load } of sides) {
    load.tell('end')
    await load.exited
    await pair.stop()
  }
  console.log('')
  return seen
}

async function webSocketMoves() {
  const { connections, drains } = WEBSOCKETS
  const pair = await startPair({})
  const ready = async (count) => {
    while ((await pair.broker.status()).services[0].backends.filter(({ state }) => state === 'ready').length !== count) await elapsed(5)
  }
  /** Everything goes to the other process, and this one registers again, which gets it its share back. */
  const toAndFro = async () => {
    // Reading the metrics costs the broker something: outside what is measured.
    const [movesBefore, before] = [await pair.moves(), pair.costs()]
    for (let drain = 0; drain < drains; drain++)
      for (const backend of pair.backends) {
        await ready(2)
        backend.tell('drain')
        await backend.message('drained')
        backend.tell('serve')
        await backend.message('ready')
      }
    const costs = less(pair.costs(), before)
    return { costs, moves: (await pair.moves()).replay - movesBefore.replay }
  }
  let load
  const withClients = async () => {
    const args = ['--chat-port', pair.broker.port, '--chats', connections, '--plain'].map(String)
    load = new SpeakingChild(program('bench/outlive/clients.mjs'), { args })
    await load.message('connected')
    const result = await toAndFro()
    load.tell('rest')
    const { chat } = await load.message('counted')
    if (chat.ended + chat.failed + chat.lost + chat.unanswered > 0) throw new Error(`WebSockets ended: ${JSON.stringify(chat)}`)
    load.tell('end')
    await load.exited
    return result
  }
  await withClients()
  console.log('WebSockets         moves      in all      broker  both apps')
  const seen = []
  for (let round = 1; round <= rounds; round++) {
    const moved = await withClients()
    const rest = await toAndFro()
    const { broker, ...apps } = less(moved.costs, rest.costs)
    seen.push((broker + total(apps)) / moved.moves)
    console.log(`round ${round}`.padEnd(16) + String(moved.moves).padStart(8) + [broker + total(apps), broker].map((cost) => column(cost / moved.moves)).join('') + (total(apps) / moved.moves).toFixed(1).padStart(11))
  }
  await pair.stop()
  console.log('')
  return seen
}
