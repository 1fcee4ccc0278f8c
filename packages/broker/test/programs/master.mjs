// The parts of a master that a fleet needs, with a re-execution on command. Commands come on stdin, the log goes to stdout.
// `exec` hands the fleet over to a new image of this program in the same process. Pauses end only on `pass`.
import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { executeInPlace, Poller } from '@baton/native-sendmsg'
import { parseConfig } from '@baton/broker'
import { pino } from 'pino'
import { Fleet } from '../../dist/master/fleet/fleet.js'
import { systemFleetOs } from '../../dist/master/fleet/os.js'
import { Lifeline } from '../../dist/supervise/lifeline.js'

const { BATON_MASTER_FLEET: saved, ...env } = process.env
const logger = pino({ name: 'master' }, pino.destination({ sync: true }))
const poller = new Poller()
const lifeline = new Lifeline()
const os = systemFleetOs(poller, lifeline)
/** Pending timers, with their milliseconds. Undefined: time passes by itself. */
let pauses = new Map()
const options = {
  logger,
  os: {
    ...os,
    setTimeout(callback, milliseconds) {
      if (pauses === undefined) return os.setTimeout(callback, milliseconds)
      pauses.set(callback, milliseconds)
      return callback
    },
    clear(timer) {
      if (!pauses?.delete(timer)) os.clear(timer)
    },
  },
  socket: '/nowhere/control.sock',
  env,
  master: lifeline.environment,
  workers: { drain() {} },
}
const { services } = parseConfig(JSON.parse(process.argv[2]))
const fleet = saved === undefined ? new Fleet(options) : Fleet.restore(JSON.parse(saved), options)
fleet.apply({ services, base: process.cwd(), drainDeadline: 600_000 })
logger.info({ statuses: fleet.statuses() }, saved === undefined ? 'up' : 'up again')

function execute({ state, keep }) {
  executeInPlace({
    path: process.execPath,
    args: process.argv.slice(1),
    env: { ...env, BATON_MASTER_FLEET: JSON.stringify(state) },
    keep,
  })
}

const commands = {
  exec() {
    execute(fleet.serialize())
  },
  /** The process of the service `mortal` is dead before the new image starts, and the saved state does not know it. */
  'exec over the dead'() {
    const { pid } = fleet.statuses().find(({ service }) => service === 'mortal')
    const written = fleet.serialize()
    writeFileSync('end', '')
    while (!readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')) continue
    execute(written)
  },
  pass() {
    const over = [...pauses]
    pauses.clear()
    for (const [callback] of over) callback()
    logger.info({ pauses: over.map(([, milliseconds]) => milliseconds) }, 'passed')
  },
  status() {
    logger.info({ statuses: fleet.statuses() }, 'status')
  },
  async stop() {
    pauses = undefined
    await fleet.stop(1000)
    fleet.close()
    logger.info('stopped')
    process.exit(0)
  },
}
createInterface({ input: process.stdin }).on('line', (line) => void commands[line]())
