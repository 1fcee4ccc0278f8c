// The cost of a held connection: the broker's resident memory with clients on hold minus that at rest, each after a garbage
// collection. Resident memory depends on how much of each page V8 happens to have free, so every sample uses its own broker.
// Neither the kernel's memory for the socket is included, nor pages of program files: V8's compilers, which the first thousands
// of clients cause to run, are 5 MB of Node's own file, shared by all of its processes.
import { readFileSync } from 'node:fs'
import { setTimeout as elapsed } from 'node:timers/promises'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { startBroker } from '../broker.mjs'
import { absolute } from '../report/comparison.mjs'
import { program } from '../scratch.mjs'

/** The clients are spread over two processes, because of the descriptor limit. */
const PROCESSES = 2
/** Covers compilation and allocations that only the first clients cause. */
const WARM_UP = 500
const COUNT = { full: 10_000, quick: 2000 }

/**
 * One sample: bytes per held connection, with `count` of them.
 *
 * @param {number} count
 * @returns {Promise<{ resident: number, live: number }>} `live`: the part that V8 counts as live objects
 */
export async function heldMemory(count) {
  const broker = await startBroker({
    service: { maxHeld: count, holdTimeout: '10m' },
    env: { NODE_OPTIONS: `--import=${program('test/programs/live-memory.mjs')}` },
  })
  const { child, pid } = broker
  let looks = 0
  const look = async () => {
    looks += 1
    process.kill(pid, 'SIGUSR2')
    const { bytes } = await child.message(`live memory ${looks}`)
    const resident = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]
    return { live: bytes, resident: Number(resident) * 1024 }
  }
  const held = async (wanted) => {
    while ((await broker.status()).services[0].held !== wanted) await elapsed(20)
  }
  const hold = async (clients) => {
    const args = [broker.port, clients / PROCESSES].map(String)
    const start = () => new SpeakingChild(program('test/programs/waiting-clients.mjs'), { args })
    const processes = Array.from({ length: PROCESSES }, start)
    for (const process of processes) await process.message('waiting')
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

/** @type {import('./index.mjs').Measure} */
export async function measure({ rounds, size }) {
  const count = COUNT[size]
  const rows = []
  for (let round = 0; round < rounds; round++) rows.push(await heldMemory(count))
  const samples = new Map([['Baton', rows]])
  return {
    samples,
    sections: [
      absolute({
        title: 'Memory of a held connection',
        note: `Resident memory of the broker per client with ${count.toLocaleString('en-US')} clients on hold, minus that at rest; both after a garbage collection. A new broker in each round. Neither the kernel's memory for sockets nor pages of program files are included.`,
        unit: 'bytes',
        samples,
        metric: 'resident',
        target: {
          what: 'memory of a held connection, bytes',
          atMost: 1023,
          stretch: 300,
          words: 'under 1 KiB, stretch 300',
        },
      }),
    ],
  }
}
