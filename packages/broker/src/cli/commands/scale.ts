import { parseScale, SCALE_EXPECTED } from '../../config/instances.ts'
import { locateRuntimeDir } from '../../config/file.ts'
import { codeIn } from '../../errors.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { askMaster } from '../../ipc/operator-client.ts'
import { CommandError, DONE, FAILED, USAGE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

/** Nothing was tried: the service or the number is wrong. */
const REFUSED = 'BATON_ERR_SCALE'

const refuse = (why: string) => new CommandError(why, { exitCode: USAGE, code: REFUSED })

export const scale: Command = {
  name: 'scale',
  operands: ['SERVICE', 'N'],
  signed: true,
  summary: SUMMARIES.scale,
  details: [
    'Runs N instances of a service that has a command, or with +N as many more. New ones start, and must be ready for',
    'minHealthy; if one of them fails, all new ones end, and the exit code is 1. Surplus ones, those with the highest numbers, are',
    'drained and stopped, and their idle and movable connections go to the others. In force over reloads and deaths, until a reload',
    'finds another number of `instances` in the configuration. Returns when it is done.',
  ].join('\n'),
  options: {
    json: { help: 'print the result as one JSON object' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = '', number = ''] = operands
    if (!/^\S+$/.test(service)) throw refuse(`${JSON.stringify(service)} is not a valid service name`)
    if (parseScale(number) === undefined) throw refuse(`${JSON.stringify(number)}: ${SCALE_EXPECTED}`)
    const json = switches.has('json')
    const command = `scale ${service} to=${number}${json ? ' json=yes' : ''}`
    const runtimeDir = locateRuntimeDir(values.get('config') ?? DEFAULT_CONFIG)
    const { success, log } = await askMaster(runtimeDir, command, (line) => {
      if (!json) terminal.out(line)
    })
    if (!success) {
      const code = codeIn(log[0] ?? '')
      throw new CommandError(log.join('\n'), { exitCode: code === REFUSED ? USAGE : FAILED, code })
    }
    for (const line of log) terminal.out(line)
    return DONE
  },
}
