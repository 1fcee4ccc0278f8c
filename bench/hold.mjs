// node bench/hold.mjs [--quick]
//
// What a held connection costs: the broker's resident memory with 10,000 clients on hold, less that at rest, both after a
// garbage collection.
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { program, startBroker } from './broker.mjs'

/** A process has few descriptors, so the clients are in two. */
const PROCESSES = 2
const WARM_UP = 500

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const count = values.quick ? 2000 : 10_000

const broker = await startBroker({
  service: { maxHeld: count, holdTimeout: '10m' },
  env: { NODE_OPTIONS: `--import=${program('test/programs/live-memory.mjs')}` },
})

/** Bytes: live objects and buffers, and what is resident. */
let looks = 0
async function look() {
  looks += 1
  broker.child.kill('SIGUSR2')
  const { bytes } = await broker.child.heard(`live memory ${looks}`)
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${broker.child.pid}/status`, 'utf8'))[1]
  return { live: bytes, resident: Number(resident) * 1024 }
}

async function held(wanted) {
  while ((await broker.status()).services[0].held !== wanted) await new Promise((resolve) => setTimeout(resolve, 20))
}

async function hold(clients) {
  const each = clients / PROCESSES
  const processes = Array.from(
    { length: PROCESSES },
    () => new SpeakingChild(program('test/programs/waiting-clients.mjs'), { args: [broker.port, each].map(String) }),
  )
  for (const child of processes) await child.heard('waiting')
  await held(clients)
  return async () => {
    for (const child of processes) child.kill('SIGKILL')
    await held(0)
  }
}

const leave = await hold(WARM_UP)
await leave()
const rest = await look()
const leaveAgain = await hold(count)
const full = await look()
await leaveAgain()
const after = await look()
await broker.stop()

const mib = (bytes) => (bytes / 2 ** 20).toFixed(1).padStart(9)
console.log(`${''.padEnd(20)} resident      live   MiB`)
for (const [name, seen] of Object.entries({ 'at rest': rest, [`${count} held`]: full, 'all gone': after })) {
  console.log(`${name.padEnd(20)}${mib(seen.resident)} ${mib(seen.live)}`)
}
const each = (kind) => Math.round((full[kind] - rest[kind]) / count)
console.log(`\n${each('resident')} bytes resident for each held connection, ${each('live')} of them live objects`)
process.exit()
