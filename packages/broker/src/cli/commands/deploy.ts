import { locateRuntimeDir } from '../../config/config.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { UsageError } from '../output/terminal.ts'
import { DONE, FAILED } from '../../exit-codes.ts'

export const deploy: Command = {
  name: 'deploy',
  operands: ['SERVICE'],
  summary: 'replace the managed backends of a service, one after the other',
  details: [
    'Starts a new process for each instance, waits until it is ready and has been for minHealthy, moves new connections',
    'over, drains the old process and stops it. When a new one fails, the old ones stay, and the exit code is 1. A changed',
    'command, env or cwd must have been taken over by `baton reload` before.',
  ].join('\n'),
  options: {
    'at-once': { value: 'N', help: 'so many instances at a time (default: 1)' },
    abort: { help: 'return to the old version, during a deploy or after one that failed half-way' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = ''] = operands
    if (/\s/.test(service)) throw new UsageError(`${JSON.stringify(service)} is no name of a service`)
    const atOnce = values.get('at-once') ?? '1'
    if (!/^[1-9]\d{0,3}$/.test(atOnce))
      throw new UsageError(`--at-once: ${JSON.stringify(atOnce)} is no number of instances`)
    const command = ['deploy', service, ...(switches.has('abort') ? ['abort'] : [`at-once=${atOnce}`])].join(
      ' ',
    )
    const runtimeDir = locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG)
    const { success, log } = await askMaster(runtimeDir, command, (line) => terminal.out(line))
    for (const line of log) {
      if (success) terminal.out(line)
      else terminal.err(line)
    }
    return success ? DONE : FAILED
  },
}
