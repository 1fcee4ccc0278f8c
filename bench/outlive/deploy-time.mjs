// node bench/outlive/deploy-time.mjs [--rounds 10] [--clients 500] [--quick]
//
// The time of a rolling deploy while the service has --clients idle HTTP connections and as many WebSockets, beside one without any, in
// turns. It ends when the old process has exited. Exits with 1 if a deploy took over 3 s more than the one before it, or a client had to connect again.
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { endOnSignals, program } from '../scratch.mjs'
import { median } from '../statistics.mjs'
import { startDeployed } from './deployed.mjs'

const MOST_MORE_MS = 3000

const { values } = parseArgs({
  options: {
    rounds: { type: 'string' },
    clients: { type: 'string', default: '500' },
    quick: { type: 'boolean', default: false },
  },
})
const rounds = Number(values.rounds ?? (values.quick ? 3 : 10))
endOnSignals()

const app = await startDeployed({ services: ['web'] })
console.log(
  `milliseconds of a deploy, until the old process has exited; ${values.clients} idle HTTP connections and ${values.clients} WebSockets\n`,
)
console.log('round      without         with         more')
const pairs = []
let ended = 0
for (let round = 1; round <= rounds; round++) {
  const without = await app.deploy('web')
  const load = new SpeakingChild(program('bench/outlive/clients.mjs'), {
    args: [
      '--chat-port',
      app.port,
      '--api-port',
      app.port,
      '--chats',
      values.clients,
      '--apis',
      values.clients,
    ].map(String),
  })
  await load.message('connected')
  // Each has had an answer: a chat that has just connected may still be at its handshake.
  load.tell('rest')
  const first = await load.message('counted')
  const withClients = await app.deploy('web')
  load.tell('rest')
  const second = await load.message('counted')
  for (const name of ['chat', 'api']) {
    ended += second[name].ended + first[name].failed + second[name].failed + second[name].unanswered
    if (second[name].moves < Number(values.clients))
      throw new Error(`only ${second[name].moves} of the ${name} clients have moved`)
  }
  load.tell('end')
  await load.exited
  pairs.push([without, withClients])
  console.log(
    String(round).padStart(5) +
      [without, withClients, withClients - without].map((each) => each.toFixed(0).padStart(13)).join(''),
  )
}
await app.stop()

const middle = (index) => median(pairs.map((pair) => pair[index])).toFixed(0)
const more = Math.max(...pairs.map(([without, withClients]) => withClients - without))
console.log(
  `\nmedian without ${middle(0)}, with ${middle(1)}; at most ${more.toFixed(0)} ms more (limit ${MOST_MORE_MS})`,
)
console.log(`clients that had to connect again, or had no answer: ${ended}`)
process.exit(more <= MOST_MORE_MS && ended === 0 ? 0 : 1)
