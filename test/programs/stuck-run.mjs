// The cost for clients when one server gets stuck, under an open loop of new connections. Two rounds of the same
// load: in the first, a process that serves no clients burns CPU for the same time (the machine's share of the effect), in the
// second a server does, and handles no events meanwhile. A server is a program with the stdin and stdout of
// `recording-backend.mjs`; the first one started is the one that gets stuck.
import { readFileSync } from 'node:fs'
import { setTimeout as elapsed } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { SpeakingChild } from './speaking-child.mjs'

/** Load before the server gets stuck, until there are connections of every age, and after it, until everything is back to normal. */
const LEAD = 500
const BURN = 'const end = Date.now() + Number(process.argv[1]); while (Date.now() < end);'

const program = (name) => fileURLToPath(new URL(name, import.meta.url))

const { values } = parseArgs({
  options: {
    server: { type: 'string' },
    servers: { type: 'string', default: '2' },
    /** Where clients connect; by default the server prints it. */
    port: { type: 'string' },
    rate: { type: 'string' },
    busy: { type: 'string' },
    /** Skips the round in which another process burns CPU. */
    'only-stuck': { type: 'boolean', default: false },
  },
})

async function round(port, stick) {
  const arrivals = new SpeakingChild(program('arrivals.mjs'), {
    args: ['--port', port, '--rate', values.rate],
  })
  await arrivals.message('arriving')
  await elapsed(LEAD)
  const { pid, from } = await stick()
  await elapsed(LEAD)
  arrivals.tell('stop')
  const { results, latest } = await arrivals.message('done')
  return { latest, ...judge(results, pid, from) }
}

/** Separates the clients that the stuck server had taken and not finished. No other process may touch those. */
function judge(results, pid, from) {
  const taken = new Set()
  for (const line of readFileSync(process.env.ADOPTIONS, 'utf8').split('\n')) {
    const [owner, port, at] = line.split(' ').map(Number)
    if (owner === pid && at <= from) taken.add(port)
  }
  const failures = {}
  const waits = []
  const apart = []
  for (const [port, begun, wait, outcome] of results) {
    const isApart = taken.has(port) && begun <= from && begun + wait > from
    if (isApart) apart.push(wait)
    else if (typeof outcome === 'number') waits.push(wait)
    else failures[outcome] = (failures[outcome] ?? 0) + 1
  }
  return { connections: results.length, failures, waits: summary(waits), apart: summary(apart) }
}

function summary(waits) {
  const sorted = waits.toSorted((a, b) => a - b)
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  return { count: sorted.length, median: at(0.5), p99: at(0.99), worst: at(1) }
}

const servers = Array.from({ length: Number(values.servers) }, () => new SpeakingChild(values.server))
let { port } = values
for (const server of servers) {
  server.tell('register')
  port ??= String((await server.message('registered')).port)
}
const [victim] = servers
// Compilation and allocations for the first connections must not count as the baseline.
await round(port, () => elapsed(LEAD, {}))
const burnt = async () => {
  const burner = new SpeakingChild('--eval', { args: [BURN, values.busy] })
  await burner.exited
  return {}
}
const baseline = values['only-stuck'] ? null : await round(port, burnt)
const stuck = await round(port, async () => {
  victim.tell(`busy ${values.busy}`)
  const { pid, from } = await victim.message('busy')
  await victim.message('idle')
  return { pid, from }
})
console.log(JSON.stringify({ msg: 'done', baseline, stuck }))
process.exit()
