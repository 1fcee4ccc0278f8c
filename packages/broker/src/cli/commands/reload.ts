import { locateRuntimeDir } from '../../config/config.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { readable } from '../../log/readable.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { DONE, FAILED } from '../../exit-codes.ts'

export const reload: Command = {
  name: 'reload',
  operands: [],
  summary: 'take over a new configuration, and new code',
  details: [
    'Asks the running broker to check its configuration file, to replace its own program by the one that is installed',
    'now, and to go on with both. No client notices. Returns when that is done, and every backend has moved to the new',
    'worker or has ended; otherwise the reason is printed, and the exit code is 1. While another reload, a deploy or the start is in',
    'progress it waits for that first; all that wait share one reload.',
  ].join('\n'),
  options: { ...configOption, 'no-wait': { help: 'fail instead of waiting for another reload or a deploy' } },
  async run({ values, switches }, terminal) {
    const { success, log } = await askMaster(
      locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG),
      switches.has('no-wait') ? 'reload no-wait' : 'reload',
    )
    for (const line of log.map(readable)) {
      if (success) terminal.out(line)
      else terminal.err(line)
    }
    return success ? DONE : FAILED
  },
}
