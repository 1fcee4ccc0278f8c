// node bench/endurance.mjs [--connections 10000000] [--quick] [--no-write]
//
// A day's connections in one run, through one worker, with two backends: the memory and the descriptors of each process after each
// fortieth of them. In between, the service is paused, and 500 clients are held. A leak of 100 bytes for each connection would be 1 GB. Exits with 1
// if descriptors grow after the first quarter, or memory in a run of a million or more: V8 takes its time. A full run is written into
// docs/explanation/performance.md.
import { readdirSync, readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startBroker } from './broker.mjs'
import { ab } from './load-tools.mjs'
import { startApps } from './peers/peer.mjs'
import { machine } from './report/machine.mjs'
import { PERFORMANCE, writePart } from './report/page.mjs'
import { markdownTable } from './report/table.mjs'
import { endOnSignals } from './scratch.mjs'
import { median } from './statistics.mjs'

const FULL = 10_000_000
const LONG = 1_000_000
const { values } = parseArgs({
  options: {
    connections: { type: 'string' },
    quick: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
  },
})
const connections = Number(values.connections ?? (values.quick ? 40_000 : FULL))
const STEPS = 40
const CONCURRENCY = 64
const HELD = 500
/** Memory that a process may have more of in the last quarter than in the second: V8 decides by itself when it gives pages back. */
const MORE = { share: 1.1, bytes: 4 * 1024 ** 2 }
/** Steps of each row of the table, which has their median. */
const STEPS_A_ROW = 4

endOnSignals()
const broker = await startBroker({ service: { maxHeld: HELD, holdTimeout: '5m', drainDeadline: '1m' } })
const apps = await startApps({
  count: 2,
  mode: 'attach',
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
})
const processes = {
  master: broker.child.pid,
  worker: broker.pid,
  'backend 1': apps.processes[0].pid,
  'backend 2': apps.processes[1].pid,
}
const steps = []
let done = 0
console.log(`connections ${Object.keys(processes).join(', ')}: MB and descriptors`)
for (let step = 0; step < STEPS; step++) {
  const { perSecond } = await ab(broker.port, {
    connections: Math.ceil(connections / STEPS),
    concurrency: CONCURRENCY,
  })
  done += Math.ceil(connections / STEPS)
  await heldCrowd()
  await idle()
  const seen = Object.fromEntries(Object.entries(processes).map(([name, pid]) => [name, sampleOf(pid)]))
  steps.push({ done, perSecond, seen })
  const cells = Object.values(seen).map(({ bytes, descriptors }) => `${megabytes(bytes)} ${descriptors}`)
  console.log(`${done}  ${Math.round(perSecond)}/s  ${cells.join('  ')}`)
}
await apps.stop()
await broker.stop()
const growth = Object.keys(processes).flatMap(grown)
const table = tableOf(steps)
console.log(`\n${table}\n`)
for (const line of growth) console.log(line)
if (connections >= FULL && !values['no-write'])
  writePart(PERFORMANCE, 'endurance', `Node ${process.versions.node}, ${machine()}.\n\n${table}`)
process.exit(growth.length === 0 ? 0 : 1)

/** Clients that are held until the service goes on. */
async function heldCrowd() {
  await order('pause')
  const served = Array.from({ length: HELD }, () => answered())
  await until(async () => (await broker.status()).services[0].held === HELD)
  await order('resume')
  await Promise.all(served)
  done += HELD
}

/** Resolves when a connection of its own has its answer. */
async function answered() {
  const socket = connect({ port: broker.port, host: '127.0.0.1' })
  socket.write('GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n')
  const answer = await text(socket)
  if (!answer.startsWith('HTTP/1.1 200')) throw new Error(`a held client got ${JSON.stringify(answer)}`)
}

async function order(what) {
  const url = `${broker.admin}/api/v1/services/web/${what}`
  const response = await fetch(url, { method: 'POST' })
  if (!response.ok) throw new Error(`${url}: ${response.status}`)
}

/** Resolves when no connection is open. */
async function idle() {
  await until(async () => {
    const { services } = await broker.status()
    return services[0].held === 0 && services[0].backends.every(({ load }) => load === 0)
  })
}

async function until(condition) {
  while (!(await condition())) await elapsed(20)
}

/** Resident memory that no other process shares, and open descriptors. */
function sampleOf(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return {
    bytes: Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)[1]) * 1024,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
  }
}

/** Growth of a process from the second quarter of the steps to the last. */
function grown(name) {
  const quarter = STEPS / 4
  const [early, late] = [steps.slice(quarter, 2 * quarter), steps.slice(-quarter)].map((part) => ({
    bytes: median(part.map(({ seen }) => seen[name].bytes)),
    descriptors: median(part.map(({ seen }) => seen[name].descriptors)),
  }))
  const found = []
  if (connections >= LONG && late.bytes > early.bytes * MORE.share + MORE.bytes)
    found.push(`memory of ${name}: ${megabytes(early.bytes)} MB, and at the end ${megabytes(late.bytes)} MB`)
  if (late.descriptors > early.descriptors)
    found.push(`descriptors of ${name}: ${early.descriptors}, and at the end ${late.descriptors}`)
  return found
}

function tableOf(all) {
  const names = Object.keys(processes)
  const rows = []
  for (let from = 0; from < all.length; from += STEPS_A_ROW) {
    const part = all.slice(from, from + STEPS_A_ROW)
    const middle = (pick) => median(part.map(pick))
    rows.push([
      part.at(-1).done.toLocaleString('en-US'),
      Math.round(middle(({ perSecond }) => perSecond)).toLocaleString('en-US'),
      ...names.flatMap((name) => [
        megabytes(middle(({ seen }) => seen[name].bytes)),
        String(middle(({ seen }) => seen[name].descriptors)),
      ]),
    ])
  }
  const head = names.flatMap((name) => [`${name}, MB`, 'fds'])
  return markdownTable(['connections', 'per second', ...head], rows)
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1)
}
