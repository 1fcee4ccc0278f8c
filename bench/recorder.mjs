// node --expose-gc --min-semi-space-size=256 --max-semi-space-size=256 bench/recorder.mjs [--quick]
//
// The cost of the flight recorder on the straight path (accepted, chosen, offered, acknowledged, released): time and
// allocated bytes per connection, compared with a recorder that keeps nothing (what remains of it is reading the clock for
// the steps); and its memory. Steps are recorded in batches, as in the broker: batches of one, and of as many as
// wait together under load.
import { connect } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { acceptOne, listenTcp, localAddress, OwnedFd } from '@baton/native-sendmsg'
import { AcceptedClient } from '../packages/broker/dist/worker/connection/connection.js'
import { noRecorder } from '../packages/broker/dist/worker/recorder/recorder.js'
import { FlightRecorder } from '../packages/broker/dist/worker/recorder/flight-recorder.js'
import { median } from './statistics.mjs'

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [CONNECTIONS, ROUNDS] = values.quick ? [20_000, 3] : [100_000, 15]
const CAPACITY = 4096

const backend = { ulid: '01M7YV1SGN39A5C4T8V6Z8QCEJ', slot: 'web-1' }
const listener = { name: 'web', protocol: 'http' }
const peer = await anAddress()

/** A client address as accept returns it. */
async function anAddress() {
  const server = listenTcp({ host: '127.0.0.1', port: 0 })
  const client = connect(localAddress(server.fd).port, '127.0.0.1')
  let accepted
  while (accepted === undefined) {
    await turn()
    accepted = acceptOne(server.fd)
  }
  new OwnedFd(accepted.fd).close()
  client.destroy()
  server.close()
  return accepted.peer
}

let order = 0
/** Batches of clients whose ids exist already: making the id is not the recorder's cost. */
function clients(batch) {
  return Array.from({ length: CONNECTIONS / batch }, () =>
    Array.from({ length: batch }, () => {
      const client = new AcceptedClient(++order, { fd: -1 }, peer, listener)
      client.id.readUInt8(0)
      return client
    }),
  )
}

function fly(recorder, batches) {
  for (const batch of batches) {
    for (const connection of batch) recorder.accepted(connection, 'web')
    recorder.note('chosen', batch, performance.now(), backend)
    recorder.note('offered', batch, performance.now())
    // Needed for the metric with or without a recorder.
    const now = performance.now()
    recorder.note('acknowledged', batch, now)
    recorder.note('released', batch, performance.now())
  }
}

function nanoseconds(recorder, batches) {
  const from = process.hrtime.bigint()
  fly(recorder, batches)
  return Number(process.hrtime.bigint() - from) / CONNECTIONS
}

function allocated(recorder, batches) {
  globalThis.gc()
  const before = process.memoryUsage().heapUsed
  fly(recorder, batches)
  return (process.memoryUsage().heapUsed - before) / CONNECTIONS
}

function memory() {
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

function memoryOfSlot(slots) {
  globalThis.gc()
  const before = memory()
  const recorder = new FlightRecorder(slots)
  const bytes = (memory() - before) / slots
  // Keeps the recorder alive until after the measurement.
  if (recorder.capacity !== slots) throw new Error('another recorder')
  return bytes
}

const recorder = new FlightRecorder(CAPACITY)
console.log(`of each connection, median of ${ROUNDS} rounds of ${CONNECTIONS.toLocaleString('en-US')}\n`)
console.log('batch   with it   clock alone   difference   allocated')
for (const batch of [1, 16]) {
  const [on, off, bytes] = [[], [], []]
  for (let round = -2; round < ROUNDS; round++) {
    const without = nanoseconds(noRecorder, clients(batch))
    const withIt = nanoseconds(recorder, clients(batch))
    const garbage = allocated(recorder, clients(batch)) - allocated(noRecorder, clients(batch))
    // The first rounds warm up the compiler.
    if (round < 0) continue
    off.push(without)
    on.push(withIt)
    bytes.push(garbage)
  }
  const [a, b] = [median(on), median(off)]
  const cells = [
    `${a.toFixed(0)} ns`,
    `${b.toFixed(0)} ns`,
    `${(a - b).toFixed(0)} ns`,
    `${median(bytes).toFixed(1)} B`,
  ]
  console.log(
    `${String(batch).padStart(5)}${[10, 14, 13, 12].map((width, at) => cells[at].padStart(width)).join('')}`,
  )
}
const slot = memoryOfSlot(100_000)
const ring = ((slot * CAPACITY) / 1024).toFixed(0)
console.log(`\nmemory of a slot: ${slot.toFixed(0)} B; of ${CAPACITY}: ${ring} KiB`)
