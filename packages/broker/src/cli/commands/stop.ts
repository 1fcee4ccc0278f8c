import { locateRuntimeDir } from '../../config/index.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { DONE, FAILED } from '../../exit-codes.ts'

export const stop: Command = {
  name: 'stop',
  operands: [],
  summary: 'drain the broker and end it',
  details: [
    'Does what SIGTERM does: no new clients, and those that are there get drainDeadline to become somebody’s. Returns',
    'when the broker has ended.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const { success, log } = await askMaster(locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG), 'stop')
    for (const line of log) terminal.err(line)
    if (success) terminal.out('stopped')
    return success ? DONE : FAILED
  },
}
