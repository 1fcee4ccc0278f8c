// node bench/reload.mjs [--reloads 200] [--quick | --long]
//
// Reloads back to back, under 64 keep-alive connections and a stream of new ones. Exits with 1 if a request fails, a
// connection is refused, a reload fails, the master's process changes, or a descriptor leaks.
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { askMaster, onlyWorker } from './master.mjs'
import { program } from './scratch.mjs'

const { values } = parseArgs({
  options: {
    reloads: { type: 'string' },
    quick: { type: 'boolean', default: false },
    long: { type: 'boolean', default: false },
  },
})
const reloads = Number(values.reloads ?? (values.quick ? 5 : values.long ? 1000 : 200))
/** After this number of reloads, a program has opened everything that it keeps open permanently. */
const WARM_UP = 2

const broker = await startBroker()
const { pid } = broker.child
const backend = new SpeakingChild(program('test/programs/recording-backend.mjs'), {
  env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ADOPTIONS: '/dev/null' },
})
backend.tell('register')
await backend.message('registered')

const reload = async () => {
  const begun = performance.now()
  const text = await askMaster(broker, 'reload')
  return { milliseconds: performance.now() - begun, success: text.startsWith('Success=1\n--\n'), text }
}
/** Open descriptors, once the old workers have exited. */
const descriptors = async () => {
  const worker = await onlyWorker(broker)
  await elapsed(1000)
  return { master: count(pid), worker: count(worker), backend: count(backend.pid) }
}

for (let number = 0; number < WARM_UP; number++) await reload()
const before = await descriptors()
const born = startTime(pid)
const load = new SpeakingChild(program('test/programs/two-kinds-load.mjs'), {
  args: ['--port', String(broker.port), '--kept', '64', '--fresh', '2', '--pause', '10'],
})
await load.message('loading')
const begun = performance.now()
const answers = []
for (let number = 1; number <= reloads; number++) {
  answers.push(await reload())
  if (number % 50 === 0) console.error(`${number} reloads, ${seconds(performance.now() - begun)} s`)
}
const took = performance.now() - begun
load.tell('stop')
const { connections, requests, slowest, failures } = await load.message('done')
const after = await descriptors()
const status = JSON.parse(await askMaster(broker, 'status'))
const survived = startTime(pid)
const counted = await broker.metrics()
const accepted = Number(/^baton_connections_accepted_total\{listener="web"\} (\d+)$/m.exec(counted)?.[1])
await broker.stop()
backend.kill('SIGKILL')

const times = answers.map(({ milliseconds }) => milliseconds).toSorted((a, b) => a - b)
const kinds = {}
for (const { kind, failure } of failures)
  kinds[`${kind}: ${failure}`] = (kinds[`${kind}: ${failure}`] ?? 0) + 1
const unsuccessful = answers.filter(({ success }) => !success)
const refused = failures.filter(({ failure }) => failure.includes('ECONNREFUSED')).length
const samePid = status.master.pid === pid && survived === born
const grown = Object.keys(before).filter((name) => after[name] > before[name])
const lines = {
  reloads: `${reloads} in ${seconds(took)} s`,
  'successful reloads': reloads - unsuccessful.length,
  'time of a reload, median, milliseconds': times[times.length >> 1].toFixed(0),
  'time of a reload, worst, milliseconds': times.at(-1).toFixed(0),
  requests,
  connections,
  'counted as accepted, over all workers': accepted,
  'slowest request, milliseconds': slowest.toFixed(0),
  'failed requests': failures.length === 0 ? 0 : JSON.stringify(kinds),
  'refused connections': refused,
  'the same master': samePid,
  'descriptors before (master, worker, backend)': Object.values(before).join(' '),
  'descriptors after': Object.values(after).join(' '),
}
for (const [name, value] of Object.entries(lines)) console.log(`${name.padEnd(48)}${value}`)
for (const { text } of unsuccessful.slice(0, 5)) console.log(text)
const good = failures.length + unsuccessful.length + grown.length === 0 && samePid && accepted === connections
process.exit(good ? 0 : 1)

function seconds(milliseconds) {
  return (milliseconds / 1000).toFixed(0)
}

function count(process) {
  return readdirSync(`/proc/${process}/fd`).length
}

/** The process's start time on the kernel's clock: proc(5), `starttime`. */
function startTime(process) {
  const stat = readFileSync(`/proc/${process}/stat`, 'utf8')
  return stat.slice(stat.lastIndexOf(')')).split(' ')[20]
}
