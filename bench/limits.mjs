// node bench/limits.mjs [--quick]
//
// Limits of a listener under an attack: one address opens 2,000 connections a second, while another one sends 50 requests a second, each on a
// new connection. Their latency, failures, and the processor time of the worker: without the attack, with each kind of limit, and without one.
import { connect } from 'node:net'
import { setTimeout as elapsed } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { SpeakingChild } from '../test/programs/speaking-child.mjs'
import { startBroker } from './broker.mjs'
import { runningTime } from './processor-time.mjs'
import { program } from './scratch.mjs'
import { quantile } from './statistics.mjs'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    attack: { type: 'boolean', default: false },
    port: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
})

const SECONDS = values.quick ? 2 : 10
const ATTACKS_PER_SECOND = 2000
const VISITS_PER_SECOND = 50
const ATTACKER = '127.0.0.6'
const VISITOR = '127.0.0.7'

/** A request on a new connection. @returns the status; 0 if there was none */
function visit(port, localAddress, keep = false) {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, localAddress })
    let answer = ''
    const done = (status) => {
      if (!keep || status !== 200) socket.destroy()
      resolve(status)
    }
    socket.setEncoding('latin1')
    socket.on('data', (chunk) => {
      answer += chunk
      if (answer.includes('\r\n\r\n')) done(Number(answer.split(' ')[1]))
    })
    socket.on('error', () => done(0))
    socket.on('close', () => done(0))
    socket.write('GET / HTTP/1.1\r\nHost: bench\r\n\r\n')
  })
}

const cell = (value) => value.toFixed(1).padStart(7)

/** Calls `action` at this rate, whatever becomes of the calls before. */
async function atRate(perSecond, seconds, action) {
  const start = performance.now()
  let done = 0
  while (performance.now() - start < seconds * 1000) {
    const due = ((performance.now() - start) / 1000) * perSecond
    for (; done < due; done += 1) action()
    await elapsed(2)
  }
  return done
}

if (values.attack) {
  const attack = async () => {
    open += 1
    const status = await visit(Number(values.port), ATTACKER, values.keep)
    open -= 1
    counts.set(status, (counts.get(status) ?? 0) + 1)
  }
  const counts = new Map()
  let open = 0
  console.log(JSON.stringify({ msg: 'attacking' }))
  const started = await atRate(ATTACKS_PER_SECOND, SECONDS, () => {
    // An attacker that is not answered any more does not run out of descriptors.
    if (open < 4000) void attack()
  })
  await elapsed(500)
  console.log(JSON.stringify({ msg: 'over', started, answers: Object.fromEntries(counts) }))
  process.exit()
}

const CASES = {
  'no attack': { attack: false, limits: { connections: 15_000 } },
  rate: { attack: true, limits: { perSource: { rate: '100/s', burst: 100 } } },
  connections: { attack: true, keep: true, limits: { perSource: { connections: 100 } } },
  both: { attack: true, keep: true, limits: { perSource: { connections: 100, rate: '100/s', burst: 100 } } },
  none: { attack: true, limits: null },
}

console.log(
  `${ATTACKS_PER_SECOND} connections a second of one address, ${VISITS_PER_SECOND} of another; ${SECONDS} s each\n\n` +
    `${'limit'.padEnd(13)}  visits  failed   p50 ms   p99 ms   max ms  worker CPU  attacker's answers`,
)
for (const [name, { attack, keep = false, limits }] of Object.entries(CASES)) {
  const broker = await startBroker({
    config: { listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web', limits }] },
  })
  const backend = new SpeakingChild(program('test/programs/http-backend.mjs'), {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  })
  await backend.message('ready')
  const attacker =
    attack &&
    new SpeakingChild(program('bench/limits.mjs'), {
      args: [
        '--attack',
        '--port',
        String(broker.port),
        ...(keep ? ['--keep'] : []),
        ...(values.quick ? ['--quick'] : []),
      ],
    })
  if (attacker) await attacker.message('attacking')
  const before = runningTime([broker.pid])
  const times = []
  let failed = 0
  const measured = async () => {
    const start = performance.now()
    const status = await visit(broker.port, VISITOR)
    times.push(performance.now() - start)
    if (status !== 200) failed += 1
  }
  await atRate(VISITS_PER_SECOND, SECONDS, () => void measured())
  const used = (runningTime([broker.pid]) - before) / 1e6
  const { started = 0, answers = {} } = attacker ? await attacker.message('over') : {}
  console.log(
    `${name.padEnd(13)}${String(times.length).padStart(8)}${String(failed).padStart(8)}  ${cell(quantile(times, 0.5))}  ${cell(quantile(times, 0.99))}  ${cell(Math.max(...times))}` +
      `${`${((used / SECONDS) * 100).toFixed(0)} %`.padStart(12)}  ${started} connections: ${JSON.stringify(answers)}`,
  )
  backend.kill('SIGKILL')
  await backend.exited
  await broker.stop()
}
process.exit()
