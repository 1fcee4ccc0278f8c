import { locateRuntimeDir } from '../../config/file.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { readable } from '../../log/readable.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { DONE, FAILED } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const reload: Command = {
  name: 'reload',
  operands: [],
  summary: SUMMARIES.reload,
  details: [
    'Validates the configuration file, then restarts the broker in place with the installed version. Clients do not notice.',
    'Returns when every backend has moved to the new worker or has exited; otherwise prints the reason, and the exit code is 1.',
    'While another reload, a deploy, a scale or the start is in progress, it waits; all waiting requests share one reload.',
  ].join('\n'),
  options: { ...configOption, 'no-wait': { help: 'fail instead of waiting for another operation' } },
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
