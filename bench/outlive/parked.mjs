// node bench/outlive/parked.mjs [--clients 15000] [--turns 2000] [--rounds 3] [--quick]
//
// Idle HTTP connections, each after one request: resident memory of each in broker and app with `parkAfter: "1s"`, beside the same clients
// kept in the app; and the time to the first byte of an answer on a parked connection, beside that on a new one, in turns. Exits with 1 if one
// parked connection takes 700 bytes or more of the broker, or a tenth of one that is kept in both together, or if the first byte
// takes over 1.3 times that of a new connection (medians); with --quick it only prints.
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import { endOnSignals, program } from '../scratch.mjs'
import { median, quantile } from '../statistics.mjs'
import { micros } from './totals.mjs'

const MOST_BYTES = 700
const LEAST_RATIO = 10
const MOST_DELAY = 1.3
/** Clients of one process. */
const WAVE = 1000
/** Clients that come and go before the first look: code is compiled, and V8's young generation has its size. */
const WARM_UP = { clients: WAVE, times: 14 }
/** Parked connections that are used in turn for the first byte. */
const POOL = 50

const { values } = parseArgs({
  options: {
    clients: { type: 'string' },
    turns: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
  },
})
/** The broker stops accepting at three quarters of its descriptors. */
const [, limit] = /^Max open files +\S+ +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
const room = Math.floor(Number(limit) * 0.75) - 500
const clients = Number(values.clients ?? (values.quick ? 2000 : Math.min(15_000, room)))
const turns = Number(values.turns ?? (values.quick ? 200 : 2000))
const rounds = Number(values.rounds ?? (values.quick ? 1 : 3))
endOnSignals()

/** @param {object} service */
async function start(service) {
  // A small young generation: what it has room for says nothing about connections.
  const env = { NODE_OPTIONS: `--import=${program('test/programs/live-memory.mjs')} --max-semi-space-size=1` }
  const broker = await startBroker({ service, env })
  const app = new SpeakingChild(program('bench/outlive/app.mjs'), {
    env: { ...env, BATON_SOCKET: broker.control, BATON_SERVICE: 'web', QUIET: '1' },
  })
  await app.message('ready')
  return { broker, app, looks: 0 }
}

const stop = async ({ broker, app }) => {
  app.kill('SIGKILL')
  await broker.stop()
}

/** Bytes of broker and app, each after a garbage collection: resident, without pages of files, and those of V8's live objects. */
async function look(pair) {
  pair.looks += 1
  const of = async (child, pid) => {
    process.kill(pid, 'SIGUSR2')
    const { bytes } = await child.message(`live memory ${pair.looks}`)
    const kilobytes = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]
    return { resident: 1024 * Number(kilobytes), live: bytes }
  }
  const { broker, app } = pair
  return { broker: await of(broker.child, broker.pid), app: await of(app, app.pid) }
}

/**
 * Clients that have each had one answer, and are idle; resolves once all are where they stay. They come in waves, as over a day: an app that has
 * thousands at once keeps the room in its heap.
 */
async function arrive({ broker }, count, areParked) {
  const settled = async () => {
    const { parked, backends } = (await broker.status()).services[0]
    return areParked ? parked : backends[0].adopted - backends[0].closed
  }
  const waves = []
  for (let left = count; left > 0; left -= WAVE) {
    const args = ['--api-port', broker.port, '--apis', Math.min(left, WAVE), '--plain'].map(String)
    const wave = new SpeakingChild(program('bench/outlive/clients.mjs'), { args })
    waves.push(wave)
    const { missing } = await wave.message('connected')
    if (missing > 0) throw new Error(`${missing} clients could not connect`)
    wave.tell('ask')
    await wave.message('asked')
    while ((await settled()) < count - Math.max(0, left - WAVE)) await elapsed(20)
  }
  return async () => {
    for (const each of waves) each.kill('SIGKILL')
    while ((await settled()) > 0) await elapsed(20)
  }
}

/** Bytes of each client in broker and app: resident, and of live objects. */
async function memory(service) {
  const areParked = service.parkAfter !== undefined
  const pair = await start(service)
  for (let time = 0; time < WARM_UP.times; time++) {
    const leave = await arrive(pair, WARM_UP.clients, areParked)
    await leave()
  }
  const before = await look(pair)
  const leaveAgain = await arrive(pair, clients, areParked)
  const after = await look(pair)
  await leaveAgain()
  await stop(pair)
  const each = (name, kind) => Math.round((after[name][kind] - before[name][kind]) / clients)
  // A process may have given pages back meanwhile: it has never less than its live objects.
  const most = (name) => Math.max(each(name, 'resident'), each(name, 'live'))
  return {
    broker: most('broker'),
    app: most('app'),
    liveBroker: each('broker', 'live'),
    liveApp: each('app', 'live'),
  }
}

/** Resolves to a connection that has had an answer, and to the microseconds to its first byte. */
function askOn(socket, begun) {
  return new Promise((resolve, reject) => {
    socket.once('error', reject)
    socket.once('close', () => reject(new Error('a connection has ended')))
    socket.once('data', () => {
      const took = micros() - begun
      socket.removeAllListeners('error').removeAllListeners('close')
      socket.on('error', () => undefined)
      resolve(took)
    })
    socket.write('GET /1 HTTP/1.1\r\nHost: bench\r\n\r\n')
  })
}

async function firstBytes() {
  const pair = await start({ parkAfter: '1s' })
  const { broker } = pair
  const open = () => connect({ port: broker.port, host: '127.0.0.1', noDelay: true })
  const parked = async (count) => {
    while ((await broker.status()).services[0].parked < count) await elapsed(20)
  }
  const pool = Array.from({ length: POOL }, open)
  for (const socket of pool) await askOn(socket, micros())
  const seen = { fresh: [], parked: [] }
  for (let turn = 0; turn < turns; turn++) {
    if (turn % POOL === 0) await parked(POOL)
    const begun = micros()
    const socket = open()
    seen.fresh.push(await askOn(socket, begun))
    socket.destroy()
    seen.parked.push(await askOn(pool[turn % POOL], micros()))
  }
  for (const socket of pool) socket.destroy()
  await stop(pair)
  return seen
}

function line(name, ...cells) {
  return name.padEnd(13) + cells.map((cell, index) => String(cell).padStart([14, 11, 17, 11][index])).join('')
}

console.log(`bytes of resident memory for each of ${clients} idle HTTP connections\n`)
console.log('round         parked: broker        app     kept: broker        app    less, times')
const seen = []
for (let round = 1; round <= rounds; round++) {
  const [parked, kept] = [await memory({ parkAfter: '1s' }), await memory({})]
  const times = (kept.broker + kept.app) / (parked.broker + parked.app)
  seen.push({ parked, kept, times })
  console.log(
    `${line(String(round), parked.broker, parked.app, kept.broker, kept.app)}${times.toFixed(1).padStart(15)}`,
  )
  console.log(line('  objects', parked.liveBroker, parked.liveApp, kept.liveBroker, kept.liveApp))
}
const bytes = median(seen.map(({ parked }) => parked.broker))
const appBytes = median(seen.map(({ parked }) => parked.app))
const times = median(seen.map((each) => each.times))
const { fresh, parked } = await firstBytes()
const of = (samples) => [0.5, 0.99, 1].map((share) => quantile(samples, share).toFixed(0)).join(' / ')
const delay = median(parked) / median(fresh)
console.log(`\nfirst byte, microseconds, p50 / p99 / max of ${turns}, in turns`)
console.log(`  new connection        ${of(fresh)}`)
console.log(`  parked connection     ${of(parked)}\n`)
const verdicts = [
  [`memory in the broker: ${bytes} bytes`, bytes < MOST_BYTES, `under ${MOST_BYTES}`],
  [`memory in the app: ${appBytes} bytes`, appBytes < MOST_BYTES / 10, 'none'],
  [`less than in the app: ${times.toFixed(1)} times`, times >= LEAST_RATIO, `at least ${LEAST_RATIO}`],
  [`first byte, to a new connection: ${delay.toFixed(2)}`, delay <= MOST_DELAY, `at most ${MOST_DELAY}`],
]
for (const [what, isMet, target] of verdicts)
  console.log(`${what}, target ${target}: ${isMet ? 'met' : 'NOT met'}`)
process.exit(values.quick || verdicts.every(([, isMet]) => isMet) ? 0 : 1)
