// node bench/kill.mjs [--kills 1000] [--seed S] [--quick]
//
// SIGKILL of backends at random moments under a load of new connections. A client may see an error only if a complete ACK
// for its connection was in control when its backend died. Exits with 1 on any other error, or if the counts do not add up.
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { program } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    kills: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    quick: { type: 'boolean', default: false },
  },
})
const kills = values.kills ?? (values.quick ? '25' : '1000')

const broker = await startBroker()
const run = new SpeakingChild(program('test/programs/kill-run.mjs'), {
  args: ['--kills', kills, '--seed', values.seed, '--port', String(broker.port), '--admin', broker.admin],
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ADOPTIONS: join(broker.folder, 'adoptions') },
})
const { seconds, clients, answered, errors, accepted, outcomes, violations } = await run.message('done')
const rerouted =
  (await broker.metrics()).match(/^baton_handoff_failures_total\{.*"BackendGone"\} (\d+)$/m)?.[1] ?? '0'
await broker.stop()

const lines = {
  kills: `${kills} in ${seconds.toFixed(0)} s, seed ${values.seed}`,
  clients,
  answered,
  'offered to a backend that was killed, served by another': rerouted,
  'errors, adopted by a backend that was killed': errors.adopted,
  'errors, backend killed between ACK and adoption': errors.unnoted,
  'accepted by the broker': accepted,
  ...outcomes,
  violations: violations.length,
}
for (const [name, value] of Object.entries(lines)) console.log(`${name.padEnd(62)}${value}`)
for (const violation of violations) console.log(JSON.stringify(violation))
process.exit(violations.length === 0 ? 0 : 1)
