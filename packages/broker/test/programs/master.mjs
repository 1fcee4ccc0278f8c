// As much of a master as a fleet needs: one service, and a re-execution when it is asked. Commands come on stdin, the log
// goes to stdout. `exec` hands the fleet over to a new image of this program in the same process.
import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { executeInPlace, Poller } from '@baton/native-sendmsg'
import { parseConfig } from '@baton/broker'
import { pino } from 'pino'
import { Fleet, systemFleetOs } from '../../dist/fleet/index.js'

const { BATON_MASTER_FLEET: saved, ...env } = process.env
const logger = pino({ name: 'master' }, pino.destination({ sync: true }))
const poller = new Poller()
const options = {
  logger,
  os: systemFleetOs(poller),
  socket: '/nowhere/control.sock',
  env,
  drain() {},
}
const { services } = parseConfig(JSON.parse(process.argv[2]))
const fleet = saved === undefined ? new Fleet(options) : Fleet.restore(JSON.parse(saved), options)
fleet.apply({ services, base: process.cwd(), drainDeadline: 1000 })
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
  /** The processes, told to end by a file, are dead before the new image is there, and nobody has heard of it. */
  'exec over the dead'() {
    const pids = fleet.statuses().map(({ pid }) => pid)
    const written = fleet.serialize()
    writeFileSync('go', '')
    for (const pid of pids) while (!readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')) continue
    execute(written)
  },
  status() {
    logger.info({ statuses: fleet.statuses() }, 'status')
  },
  async stop() {
    await fleet.stop(1000)
    fleet.close()
    logger.info('stopped')
    process.exit(0)
  },
}
createInterface({ input: process.stdin }).on('line', (line) => void commands[line]())
