import { locateRuntimeDir } from '../../config/file.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { UsageError } from '../output/terminal.ts'
import { DONE, FAILED } from '../../exit-codes.ts'

export const deploy: Command = {
  name: 'deploy',
  operands: ['SERVICE'],
  summary: "roll out a service's managed backends, one at a time",
  details: [
    'Starts a new process for each instance, waits until it has been ready for minHealthy, moves new connections to it,',
    'drains the old process and stops it. If a new process fails, the remaining old ones stay, and the exit code is 1. After a',
    'change of command, env or cwd, run `baton reload` first.',
  ].join('\n'),
  options: {
    'at-once': { value: 'N', help: 'instances to replace at a time (default: 1)' },
    abort: { help: 'return to the old version, during a deploy or after one that failed half-way' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = ''] = operands
    if (/\s/.test(service)) throw new UsageError(`${JSON.stringify(service)} is not a valid service name`)
    const atOnce = values.get('at-once') ?? '1'
    if (!/^[1-9]\d{0,3}$/.test(atOnce))
      throw new UsageError(`--at-once: ${JSON.stringify(atOnce)} must be a number from 1 to 9999`)
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
