// node bench/stuck.mjs [--quick] [--backends N]
//
// One of two backends is stuck in a 5 s busy loop, under 500 new connections a second that arrive on schedule regardless of
// responses. For comparison, the same app under Node's `cluster` (measures/stuck.mjs).
import { parseArgs } from 'node:util'
import { ACK_DEADLINE, stuckUnderBaton, stuckUnderCluster } from './measures/stuck.mjs'

const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, backends: { type: 'string', default: '2' } },
})
const [busy, rate] = values.quick ? [1500, 200] : [5000, 500]
const servers = Number(values.backends)

const ms = (value) => value.toFixed(0).padStart(8)
function row(name, { connections, failures, waits, apart, latest }) {
  const failed = Object.values(failures).reduce((sum, count) => sum + count, 0)
  console.log(
    `${name.padEnd(26)}${String(connections).padStart(8)}${String(failed).padStart(8)}` +
      `${ms(waits.median)}${ms(waits.p99)}${ms(waits.worst)}${String(apart.count).padStart(8)}${ms(apart.worst)}${ms(latest)}`,
  )
}

console.log(
  `one of ${servers} is stuck for ${busy} ms under ${rate} new connections/s; milliseconds, ackDeadline ${ACK_DEADLINE}\n`,
)
const head = ['clients', 'failed', 'median', 'p99', 'worst', 'apart', 'worst', 'behind']
console.log(' '.repeat(26) + head.map((name) => name.padStart(8)).join(''))
const measured = await stuckUnderBaton({ servers, busy, rate })
row('Baton, CPU busy', measured.baseline)
row('Baton, backend stuck', measured.stuck)
const beside = await stuckUnderCluster({ servers, busy, rate })
row('cluster, CPU busy', beside.baseline)
row('cluster, worker stuck', beside.stuck)
console.log(
  `\nBaton's worst wait is ${(measured.stuck.waits.worst - ACK_DEADLINE).toFixed(0)} ms over ackDeadline; outcomes ${JSON.stringify(measured.outcomes)}`,
)
process.exit()
