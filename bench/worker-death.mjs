// node bench/worker-death.mjs [--kills 100] [--seed S] [--quick]
//
// SIGKILL of the worker at random moments under 64 keep-alive connections and a stream of new ones. A new connection may be
// lost only if no backend had adopted it and a worker was killed during its lifetime: it was accepted and not yet on a
// lane. Exits with 1 on any other failure, and if the counters are older than a second (plus the scrape's own time).
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Random } from '../test/chaos/random.mjs'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { onlyWorker } from './master.mjs'
import { program } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    kills: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    quick: { type: 'boolean', default: false },
  },
})
const kills = Number(values.kills ?? (values.quick ? 5 : 100))
/** Maximum delay in ms between a new worker's first report of its counters and the kill. */
const MOMENT = 500
/** The interval at which a worker reports its counters, plus some time for a busy machine: milliseconds. */
const OLDEST = 1000 + 250

const now = () => Number(process.hrtime.bigint()) / 1e6
const random = new Random(Number(values.seed))
const broker = await startBroker()
const adoptions = join(broker.folder, 'adoptions')
const backend = new SpeakingChild(program('test/programs/recording-backend.mjs'), {
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ADOPTIONS: adoptions },
})
backend.tell('register')
await backend.message('registered')
const load = new SpeakingChild(program('test/programs/two-kinds-load.mjs'), {
  args: ['--port', String(broker.port), '--kept', '64', '--fresh', '4', '--pause', '10'],
})
await load.message('loading')

const killed = []
/** Age of the surviving counters at the kill: the time since the last scrape that showed no more than they do. Milliseconds. */
const ages = []
const begun = now()
for (let number = 1; number <= kills; number++) {
  const worker = await onlyWorker(broker)
  const scrapes = []
  const end = now() + OLDEST + random.next() * MOMENT
  while (now() < end) {
    const at = now()
    scrapes.push([at, await accepted()])
    await elapsed(20)
  }
  killed.push(now())
  process.kill(worker, 'SIGKILL')
  while ((await onlyWorker(broker)) === worker) await elapsed(5)
  // Minus what the new worker accepted itself until a moment later: at most what survived of the old workers' counts.
  const total = await accepted()
  const kept = total - (await ask('/api/v1/status', 'json')).listeners[0].accepted
  const newest = scrapes.filter(([, count]) => count <= kept).at(-1)
  ages.push(newest === undefined ? Number.POSITIVE_INFINITY : killed.at(-1) - newest[0])
  if (number % 20 === 0) console.error(`${number} kills, ${((now() - begun) / 1000).toFixed(0)} s`)
}
const deaths = await counter('baton_worker_deaths_total')
load.tell('stop')
const { connections, requests, slowest, failures } = await load.message('done')
const seconds = (now() - begun) / 1000
await broker.stop()
backend.kill('SIGKILL')

const notes = readNotes()
const refused = failures.filter(({ failure }) => failure.includes('ECONNREFUSED'))
const noticed = failures.filter(({ kind, answered }) => kind === 'kept' && answered > 0)
const isAdopted = ({ local, begun: from, ended }) =>
  (notes.get(local) ?? []).some((at) => from <= at && at <= ended)
const inItsHands = (failure) =>
  !isAdopted(failure) && killed.some((at) => failure.begun <= at && at <= failure.ended)
const unexplained = failures.filter((failure) => !inItsHands(failure))
const lines = {
  kills: `${kills} in ${seconds.toFixed(0)} s, seed ${values.seed}`,
  'deaths counted': deaths,
  requests,
  connections,
  'refused connections': refused.length,
  'handed-off connections that failed': noticed.length,
  'lost, accepted and not yet on a lane at a kill': failures.length - unexplained.length,
  'lost for any other reason': unexplained.length,
  'age of the counters, worst, milliseconds': Math.max(...ages).toFixed(0),
  'slowest request, milliseconds': slowest.toFixed(0),
}
for (const [name, value] of Object.entries(lines)) console.log(`${name.padEnd(50)}${value}`)
for (const failure of unexplained.slice(0, 10)) console.log(JSON.stringify(failure))
const good = unexplained.length === 0 && deaths === kills && ages.every((age) => age <= OLDEST)
process.exit(good ? 0 : 1)

/** On its own connection: a kept one ends with its worker. */
async function ask(path, kind) {
  const response = await fetch(`${broker.admin}${path}`, { headers: { connection: 'close' } })
  return response[kind]()
}

async function counter(series) {
  const text = await ask('/metrics', 'text')
  const line = text.split('\n').find((each) => each.startsWith(`${series} `))
  return Number(line?.slice(series.length + 1))
}

function accepted() {
  return counter('baton_connections_accepted_total{listener="web"}')
}

/** Client port -> time of adoption. */
function readNotes() {
  const found = new Map()
  for (const line of readFileSync(adoptions, 'utf8').trimEnd().split('\n')) {
    const [, port, at] = line.split(' ').map(Number)
    if (found.has(port)) found.get(port).push(at)
    else found.set(port, [at])
  }
  return found
}
