import type { LogsRequest } from '../kept-output.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { parseDurationOption } from '../duration-option.ts'
import { UsageError } from '../output/terminal.ts'

/** Number of lines in a terminal, unless a number or a time is given. */
const LINES_IN_TERMINAL = 50

export const logs: Command = {
  name: 'logs',
  operands: ['[SERVICE[/BACKEND]]'],
  summary: 'show what managed backends have printed',
  details: [
    'Shows the kept output of all services with a command, of one, or of one backend, named by its instance (web/web.1), its slot',
    `(web/web-1) or its id. Reads files, so it works while the broker is stopped too. In a terminal, the last ${LINES_IN_TERMINAL} lines, unless`,
    '--lines or --since says otherwise; to a file or a pipe, all that is kept. With --follow, Ctrl-C quits.',
  ].join('\n'),
  options: {
    follow: { short: 'f', help: 'go on with later lines, over reloads and restarts of the broker' },
    since: { value: 'TIME', help: 'only lines since then: a duration such as 10m, or a time such as 2026-11-29T08:00' },
    lines: { short: 'n', value: 'N', help: 'only the last N lines, before those that --follow adds' },
    json: { help: 'print each line as JSON, with time, service, instance, backend, slot and stream' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const since = sinceOf(values.get('since'))
    const lines = linesOf(values.get('lines'))
    const isShort = terminal.display !== undefined && since === undefined
    const request: LogsRequest = {
      file: values.get('config') ?? DEFAULT_CONFIG,
      ...targetOf(operands[0]),
      follow: switches.has('follow'),
      json: switches.has('json'),
      since,
      lines: lines ?? (isShort ? LINES_IN_TERMINAL : undefined),
    }
    return (await import('../kept-output.ts')).showLogs(request, terminal)
  },
}

function targetOf(operand: string | undefined): Pick<LogsRequest, 'service' | 'backend'> {
  if (operand === undefined) return { service: undefined, backend: undefined }
  const [service = '', backend, ...rest] = operand.split('/')
  if (service !== '' && backend !== '' && rest.length === 0) return { service, backend }
  throw new UsageError(`${JSON.stringify(operand)} is not SERVICE or SERVICE/BACKEND`)
}

function sinceOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d+[a-z]*$/.test(text)) return Date.now() - (parseDurationOption('since', text) ?? 0)
  const time = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN
  if (!Number.isNaN(time)) return time
  throw new UsageError(
    `--since: ${JSON.stringify(text)} is neither a duration such as 10m nor a time such as 2026-11-29T08:00`,
  )
}

function linesOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new UsageError(`--lines: ${JSON.stringify(text)} must be a whole number, 0 or more`)
}
