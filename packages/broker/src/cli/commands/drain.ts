import { formatDuration } from '../../config/duration.ts'
import { locate } from '../configuration.ts'
import { askBroker } from '../admin-client.ts'
import { otherVersion } from '../answers.ts'
import { parseDurationOption } from '../duration-option.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { UsageError } from '../output/terminal.ts'
import { DONE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const drain: Command = {
  name: 'drain',
  operands: ['SERVICE[/BACKEND]'],
  summary: SUMMARIES.drain,
  details: [
    'Stops new connections to a service, or to one of its backends, named by its slot (web/web-1) or its id. Connections in',
    'flight finish. Returns when the drain has begun. A process that Baton runs exits when it has drained, and is started again:',
    'for other code use `baton deploy`, for fewer processes `baton scale`.',
  ].join('\n'),
  options: {
    deadline: {
      value: 'DURATION',
      help: 'cut remaining connections after this time, such as 30s (default: drainDeadline)',
    },
    ...configOption,
  },
  async run({ operands, values }, terminal) {
    const { service, backend } = parseTarget(operands[0] ?? '')
    const text = values.get('deadline')
    // Milliseconds without a unit: scripts from before durations had units.
    const deadline = parseDurationOption(
      'deadline',
      text !== undefined && /^\d+$/.test(text) ? `${text}ms` : text,
    )
    const config = await locate(values.get('config') ?? DEFAULT_CONFIG)
    const path = [
      '',
      'api',
      'v1',
      'services',
      service,
      ...(backend === undefined ? [] : ['backends', backend]),
      'drain',
    ]
    const answer: unknown = await askBroker(
      config,
      'POST',
      path.map(encodeURIComponent).join('/'),
      deadline === undefined ? {} : { deadline },
    )
    const { draining, deadlineMs } = Object(answer)
    if (typeof draining !== 'number' || typeof deadlineMs !== 'number') throw otherVersion('a drain')
    const what = draining === 1 ? '1 backend' : `${draining} backends`
    terminal.out(`${operands[0]}: draining ${what}, for at most ${formatDuration(deadlineMs)}`)
    return DONE
  },
}

function parseTarget(operand: string): { service: string; backend: string | undefined } {
  const [service = '', backend, ...rest] = operand.split('/')
  if (service !== '' && backend !== '' && rest.length === 0) return { service, backend }
  throw new UsageError(`${JSON.stringify(operand)} is not SERVICE or SERVICE/BACKEND`)
}
