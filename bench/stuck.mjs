// node bench/stuck.mjs [--quick]
//
// One of two backends is stuck in a 5 s busy loop, under 500 new connections a second that come on schedule whatever the
// answers. Beside it the same app under Node's `cluster`. A client is counted apart if the stuck process had taken its
// connection before the loop began: nobody else may touch that.
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { program, startBroker, temporaryFolder } from './broker.mjs'

const ACK_DEADLINE = 500
const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false } } })
const [busy, rate] = values.quick ? [1500, 200] : [5000, 500]

async function run(args, env) {
  const adoptions = join(temporaryFolder(), 'adoptions')
  const child = new SpeakingChild(program('test/programs/stuck-run.mjs'), {
    args: [...args, '--rate', String(rate), '--busy', String(busy)],
    env: { ...env, ADOPTIONS: adoptions },
  })
  return child.heard('done')
}

async function baton() {
  const broker = await startBroker({ service: { ackDeadline: ACK_DEADLINE, balance: 'round-robin' } })
  const rounds = await run(
    ['--server', program('test/programs/recording-backend.mjs'), '--port', String(broker.port)],
    { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  )
  const { outcomes } = (await broker.status()).services[0]
  await broker.stop()
  return { ...rounds, outcomes }
}

const cluster = () => run(['--server', program('bench/cluster-app.mjs'), '--servers', '1'], {})

const ms = (value) => value.toFixed(0).padStart(8)
function row(name, { connections, failures, waits, apart, latest }) {
  const failed = Object.values(failures).reduce((sum, count) => sum + count, 0)
  console.log(
    `${name.padEnd(26)}${String(connections).padStart(8)}${String(failed).padStart(8)}` +
      `${ms(waits.median)}${ms(waits.p99)}${ms(waits.worst)}${String(apart.count).padStart(8)}${ms(apart.worst)}${ms(latest)}`,
  )
}

console.log(
  `one of two is stuck for ${busy} ms under ${rate} new connections/s; milliseconds, ackDeadline ${ACK_DEADLINE}\n`,
)
const head = ['clients', 'failed', 'median', 'p99', 'worst', 'apart', 'worst', 'behind']
console.log(' '.repeat(26) + head.map((name) => name.padStart(8)).join(''))
const measured = await baton()
row('Baton, processor burnt', measured.baseline)
row('Baton, backend stuck', measured.stuck)
const beside = await cluster()
row('cluster, processor burnt', beside.baseline)
row('cluster, worker stuck', beside.stuck)
console.log(
  `\nBaton's worst is ackDeadline ${(measured.stuck.waits.worst - ACK_DEADLINE).toFixed(0)} ms more; outcomes ${JSON.stringify(measured.outcomes)}`,
)
process.exit()
