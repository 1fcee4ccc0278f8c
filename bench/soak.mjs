// node bench/soak.mjs [--seconds 3600] [--resume FILE] [--seed S] [--quick]
//
// Requests without a pause, while the broker is reloaded every 300 ms or as fast as it goes, a service is deployed, and one of its processes or the worker is
// killed in turn. A request may fail only with the process that had its connection: one that a backend had adopted and that was killed, or a worker that was
// killed before a backend adopted it, or after it was handed back. A request that failed while a backend was killed, and that no backend
// has noted, is counted apart. With --resume the totals in FILE are continued. Exits with 1 if any other request failed.
import { closeSync, existsSync, openSync, readFileSync, readSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Random } from '../test/chaos/random.mjs'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { askMaster } from './master.mjs'
import { endOnSignals, program, temporaryFolder } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    resume: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    quick: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds ?? (values.quick ? 8 : 3600))
/** Minimum time from one reload to the next, in milliseconds. */
const RELOAD_EVERY = 300
/** Reloads between two deploys, and between two kills. */
const RELOADS = values.quick ? 1 : 5
const INSTANCES = 2
/** A worker that dies again within 10 s is restarted with a delay, in which clients wait: milliseconds. */
const WORKER_EVERY = 15_000
const SHOWN = 10
const now = () => Number(process.hrtime.bigint()) / 1e6

endOnSignals()
const random = new Random(Number(values.seed))
const folder = temporaryFolder()
const journal = join(folder, 'adoptions')
writeFileSync(journal, '')
const broker = await startBroker({
  folder,
  wrapper: ['setsid'],
  config: {
    services: {
      web: {
        command: [process.execPath, program('bench/programs/soak-app.mjs')],
        cwd: program('.'),
        env: { ADOPTIONS: journal },
        instances: INSTANCES,
        minHealthy: '0s',
        // A relay would end with its worker.
        ackDeadline: '5m',
        tokenTtl: '10m',
        holdTimeout: '10m',
      },
    },
  },
})
await ready()
const clients = new SpeakingChild(program('bench/programs/soak-clients.mjs'), {
  env: { PORT: String(broker.port), KEPT: '64', FRESH: '4' },
})

const totals = {
  runs: 0,
  seconds: 0,
  requests: 0,
  connections: 0,
  announced: 0,
  reloads: 0,
  'reloads refused': 0,
  deploys: 0,
  'deploys failed': 0,
  'backends killed': 0,
  'workers killed': 0,
  'failed inside a killed backend': 0,
  'failed inside a killed worker': 0,
  'failed between ACK and adoption': 0,
  'failed otherwise': 0,
  slowest: 0,
}
if (values.resume !== undefined && existsSync(values.resume))
  Object.assign(totals, JSON.parse(readFileSync(values.resume, 'utf8')))
totals.runs += 1

/** Times of kills, by pid; of workers. */
const backendsKilled = []
const workersKilled = []
/** By client port: the last adoptions and hand-backs, `{ pid, at, what }`. */
const adoptions = new Map()
const input = openSync(journal, 'r')
let [offset, rest] = [0, '']
const stop = new AbortController()
process.removeAllListeners('SIGINT').once('SIGINT', () => stop.abort())

const begun = performance.now()
const before = totals.seconds
for (let lastWorker = -Infinity; !stop.signal.aborted && performance.now() - begun < seconds * 1000;) {
  for (let turn = 0; turn < RELOADS; turn++) await reload()
  await deploy()
  await elapsed(random.next() * RELOAD_EVERY)
  const isWorkersTurn = random.next() < 0.5 && performance.now() - lastWorker > WORKER_EVERY
  if (isWorkersTurn) lastWorker = performance.now()
  await kill(isWorkersTurn)
  await count('report', 'counted')
}
await count('stop', 'done')
closeSync(input)
await broker.stop()
for (const [name, value] of Object.entries(totals))
  console.log(`${name.padEnd(40)}${Math.round(value).toLocaleString('en-US')}`)
process.exit(totals['failed otherwise'] === 0 && totals.requests > 0 ? 0 : 1)

async function reload() {
  const from = performance.now()
  const text = await askMaster(broker, 'reload')
  totals[text.startsWith('Success=1\n') ? 'reloads' : 'reloads refused'] += 1
  await elapsed(Math.max(0, from + RELOAD_EVERY - performance.now()))
}

async function deploy() {
  const text = await askMaster(broker, 'deploy web at-once=1')
  totals[text.includes('Success=1\n') ? 'deploys' : 'deploys failed'] += 1
}

/** SIGKILL of the worker or of a backend, under load; resolves when all backends are there again. */
async function kill(isWorkersTurn) {
  const { workers, managed } = JSON.parse(await askMaster(broker, 'status'))
  const [{ pid }] = isWorkersTurn
    ? workers.filter(({ role }) => role === 'serving')
    : random.shuffled(managed)
  const killed = { pid, at: now() }
  if (isWorkersTurn) workersKilled.push(killed)
  else backendsKilled.push(killed)
  process.kill(pid, 'SIGKILL')
  totals[isWorkersTurn ? 'workers killed' : 'backends killed'] += 1
  await ready(killed.pid)
}

/** @param except has been killed */
async function ready(except) {
  for (;;) {
    const { managed, workers, broker: facts } = JSON.parse(await askMaster(broker, 'status'))
    const isGone = ![...managed, ...workers].some(({ pid }) => pid === except)
    if (isGone && facts?.services[0]?.ready === INSTANCES && workers.some(({ role }) => role === 'serving'))
      return
    await elapsed(20)
  }
}

/** Adds what the clients have counted since the last time, and judges each failure. */
async function count(line, answer) {
  clients.tell(line)
  const { requests, connections, announced, slowest, failures } = await clients.message(answer)
  readAdoptions()
  totals.requests += requests
  totals.connections += connections
  totals.announced += announced
  totals.slowest = Math.max(totals.slowest, slowest)
  totals.seconds = before + (performance.now() - begun) / 1000
  for (const failure of failures) {
    const cause = causeOf(failure)
    totals[`failed ${cause}`] += 1
    if (cause === 'otherwise' && totals['failed otherwise'] <= SHOWN)
      console.error(JSON.stringify({ ...failure, adoptions: adoptions.get(failure.local) }))
  }
  if (values.resume === undefined) return
  writeFileSync(`${values.resume}.new`, `${JSON.stringify(totals, null, 1)}\n`)
  renameSync(`${values.resume}.new`, values.resume)
}

/** Which process had the connection, of those that were killed. */
function causeOf({ failure, local, begun: from, at }) {
  if (failure.startsWith('wrong')) return 'otherwise'
  const last = (adoptions.get(local) ?? []).findLast((each) => from <= each.at && each.at <= at)
  const isKilled = ({ pid, at: time }) => pid === last?.pid && last.at <= time && time <= at
  if (last?.what === 'adopted') return backendsKilled.some(isKilled) ? 'inside a killed backend' : 'otherwise'
  // Before its adoption, or from a hand-back to the next one, the worker had it.
  const since = last?.at ?? from
  const isThen = (each) => since <= each.at && each.at <= at
  if (workersKilled.some(isThen)) return 'inside a killed worker'
  // A backend notes an adoption once it has it: one that is killed between its ACK and the note has the connection, and no note.
  if (backendsKilled.some(isThen)) return 'between ACK and adoption'
  return 'otherwise'
}

function readAdoptions() {
  const bytes = Buffer.alloc(1 << 20)
  for (let size; (size = readSync(input, bytes, 0, bytes.length, offset)) > 0; offset += size) {
    const lines = (rest + bytes.latin1Slice(0, size)).split('\n')
    rest = lines.pop()
    for (const line of lines) {
      const [pid, port, at] = line.split(' ', 3).map(Number)
      const what = line.slice(line.lastIndexOf(' ') + 1)
      const known = adoptions.get(port) ?? []
      adoptions.set(port, [...known.slice(-7), { pid, at, what }])
    }
  }
}
