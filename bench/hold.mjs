// node bench/hold.mjs [--quick]
//
// Broker memory per held connection, with 10,000 of them; the median over five brokers (measures/held-memory.mjs).
import { parseArgs } from 'node:util'
import { heldMemory } from './measures/held-memory.mjs'
import { median } from './statistics.mjs'

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [count, runs] = values.quick ? [2000, 1] : [10_000, 5]

const row = (name, { resident, live }) =>
  console.log(`${String(name).padStart(3)}${String(resident).padStart(10)}${String(live).padStart(16)}`)

const seen = []
console.log(`bytes for each of ${count} held connections\n\n     resident    live objects`)
for (let run = 1; run <= runs; run++) {
  seen.push(await heldMemory(count))
  row(run, seen.at(-1))
}
const middle = (kind) => median(seen.map((each) => each[kind]))
row('med', { resident: middle('resident'), live: middle('live') })
process.exit()
