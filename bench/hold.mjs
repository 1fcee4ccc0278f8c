// node bench/hold.mjs [--quick]
//
// What a held connection costs: the broker's resident memory with 10,000 clients on hold, less that at rest, both after a
// garbage collection. How much of a page V8 has free decides what is resident, so each run is a broker of its own, and the
// median counts.
import { readFileSync } from 'node:fs'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { program, startBroker } from './broker.mjs'

/** A process has few descriptors, so the clients are in two. */
const PROCESSES = 2
/** What is compiled and laid out for the first clients is no later one's. */
const WARM_UP = 500

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [count, runs] = values.quick ? [2000, 1] : [10_000, 5]

async function measure() {
  const broker = await startBroker({
    service: { maxHeld: count, holdTimeout: '10m' },
    env: { NODE_OPTIONS: `--import=${program('test/programs/live-memory.mjs')}` },
  })
  const { child, pid } = broker
  let looks = 0
  const look = async () => {
    looks += 1
    process.kill(pid, 'SIGUSR2')
    const { bytes } = await child.heard(`live memory ${looks}`)
    const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]
    return { live: bytes, resident: Number(resident) * 1024 }
  }
  const held = async (wanted) => {
    while ((await broker.status()).services[0].held !== wanted) await elapsed(20)
  }
  const hold = async (clients) => {
    const args = [broker.port, clients / PROCESSES].map(String)
    const start = () => new SpeakingChild(program('test/programs/waiting-clients.mjs'), { args })
    const processes = Array.from({ length: PROCESSES }, start)
    for (const process of processes) await process.heard('waiting')
    await held(clients)
    return async () => {
      for (const process of processes) process.kill('SIGKILL')
      await held(0)
    }
  }

  const leave = await hold(WARM_UP)
  await leave()
  const rest = await look()
  const leaveAgain = await hold(count)
  const full = await look()
  await leaveAgain()
  await broker.stop()
  const each = (kind) => Math.round((full[kind] - rest[kind]) / count)
  return { resident: each('resident'), live: each('live') }
}

const seen = []
console.log(`bytes for each of ${count} held connections\n\n     resident    live objects`)
for (let run = 1; run <= runs; run++) {
  const { resident, live } = await measure()
  seen.push({ resident, live })
  console.log(`${String(run).padStart(3)}${String(resident).padStart(10)}${String(live).padStart(16)}`)
}
const median = (kind) => seen.map((each) => each[kind]).toSorted((a, b) => a - b)[runs >> 1]
console.log(`med${String(median('resident')).padStart(10)}${String(median('live')).padStart(16)}`)
process.exit()
