import { locateRuntimeDir } from '../../config/file.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { DONE, FAILED } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const stop: Command = {
  name: 'stop',
  operands: [],
  summary: SUMMARIES.stop,
  details: [
    'Drains the broker, like SIGTERM: it stops accepting connections and gives current ones until drainDeadline to be',
    'handed off, and managed backends the same time to finish. Reports every 5 s what it is waiting for, and returns when the',
    'broker has exited.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const { success, log } = await askMaster(
      locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG),
      'stop',
      (line) => terminal.err(line),
    )
    for (const line of log) terminal.err(line)
    if (success) terminal.out('stopped')
    return success ? DONE : FAILED
  },
}
