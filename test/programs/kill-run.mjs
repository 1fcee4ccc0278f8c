// Kills backends at random moments under a load of new connections, and judges each client by the recorded adoptions.
//
// Three backends are registered; each is SIGKILLed sooner or later, and a spare replaces it immediately. Every backend
// records each adoption before its app sees the connection (`recording-backend.mjs`). The broker counts a connection
// as handed off on a complete ACK only. So a client without a response is
//
//   - allowed, if the one backend that adopted it was killed afterwards;
//   - allowed, if no backend recorded it and its backend was killed between ACK and record: the broker's count of ACKs
//     must equal the number of records plus these clients;
//   - a violation otherwise.
import { readFileSync } from 'node:fs'
import { setTimeout as elapsed } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Random } from '../chaos/random.mjs'
import { SpeakingChild } from './speaking-child.mjs'

const REGISTERED = 3
const SPARES = 2
/** Maximum time in ms from having two backends to choose from until the kill. */
const MOMENT = 60

const program = (name) => fileURLToPath(new URL(name, import.meta.url))
const now = () => Number(process.hrtime.bigint()) / 1e6

const { values } = parseArgs({
  options: {
    kills: { type: 'string' },
    seed: { type: 'string' },
    port: { type: 'string' },
    admin: { type: 'string' },
    /** The service, whose listener has the same name. Default: the only listener. */
    service: { type: 'string' },
    rate: { type: 'string', default: '200' },
    burst: { type: 'string', default: '8' },
  },
})

const random = new Random(Number(values.seed))
const ready = []
const spares = []
/** pid -> time. */
const killed = new Map()
let noteReady = () => {}

function preload() {
  while (spares.length < SPARES) spares.push(new SpeakingChild(program('recording-backend.mjs')))
}

async function register() {
  preload()
  const backend = spares.shift()
  preload()
  backend.tell('register')
  await backend.message('registered')
  ready.push(backend)
  noteReady()
}

async function atLeast(count) {
  while (ready.length < count) await new Promise((resolve) => (noteReady = resolve))
}

for (let count = 0; count < REGISTERED; count++) await register()
const arrivals = new SpeakingChild(program('arrivals.mjs'), {
  args: ['--port', values.port, '--rate', values.rate, '--burst', values.burst],
})
await arrivals.message('arriving')
const begun = now()
for (let kill = 1; kill <= Number(values.kills); kill++) {
  await atLeast(2)
  await elapsed(random.next() * MOMENT)
  const [victim] = ready.splice(Math.floor(random.next() * ready.length), 1)
  killed.set(victim.pid, now())
  victim.kill('SIGKILL')
  await victim.exited
  void register()
  if (kill % 100 === 0) console.error(`${kill} kills, ${((now() - begun) / 1000).toFixed(0)} s`)
}
await atLeast(REGISTERED)
arrivals.tell('stop')
const { results } = await arrivals.message('done')
const outcomes = await settled()
console.log(
  JSON.stringify({ msg: 'done', kills: killed.size, seconds: (now() - begun) / 1000, ...judge(outcomes) }),
)
process.exit()

/** The broker's counts, once no connection is in flight. */
async function settled() {
  for (;;) {
    const { listeners, services } = await (await fetch(`${values.admin}/api/v1/status`)).json()
    const ours = ({ name }) => values.service === undefined || name === values.service
    const { held, inFlight, outcomes } = services.find(ours)
    if (held + inFlight === 0) return { accepted: listeners.find(ours).accepted, ...outcomes }
    await elapsed(20)
  }
}

function judge({ accepted, ...outcomes }) {
  const notes = readNotes()
  const violations = []
  let answered = 0
  let adopted = 0
  let unnoted = 0
  for (const [port, from, wait, outcome] of results) {
    // Ports are reused, so a port identifies a client only together with the time.
    const owners = (notes.get(port) ?? []).filter(({ at }) => at >= from && at <= from + wait)
    const [owner] = owners
    const client = { port, outcome, owners }
    if (owners.length > 1) violations.push({ rule: 'one owner', ...client })
    if (owner === undefined) unnoted += 1
    else adopted += 1
    if (typeof outcome === 'number') {
      answered += 1
      if (owner?.pid !== outcome) violations.push({ rule: 'answered by its owner', ...client })
    } else if (owner !== undefined && !(killed.get(owner.pid) <= from + wait)) {
      violations.push({ rule: 'an error only of who was killed', ...client })
    }
  }
  const acks = outcomes.handed_off + outcomes.relayed
  if (acks !== adopted + unnoted)
    violations.push({ rule: 'an error only after an ACK', acks, adopted, unnoted })
  const ended = Object.values(outcomes).reduce((sum, count) => sum + count, 0)
  if (accepted !== ended || accepted !== results.length) {
    violations.push({ rule: 'conservation', accepted, ended, clients: results.length })
  }
  const clients = results.length
  return {
    clients,
    answered,
    errors: { adopted: adopted - answered, unnoted },
    accepted,
    outcomes,
    violations,
  }
}

/** Client port -> pid and time of its adoptions. */
function readNotes() {
  const notes = new Map()
  for (const line of readFileSync(process.env.ADOPTIONS, 'utf8').trimEnd().split('\n')) {
    const [pid, port, at] = line.split(' ').map(Number)
    if (notes.has(port)) notes.get(port).push({ pid, at })
    else notes.set(port, [{ pid, at }])
  }
  return notes
}
