import { join } from 'node:path'
import { errnoOf } from '../../config/error.ts'
import { locateServices } from '../../config/file.ts'
import { nearMiss } from '../../config/near-miss.ts'
import { CommandError, DONE, USAGE } from '../../exit-codes.ts'
import type { OutputLine } from '../../log/kept/line.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { parseDurationOption } from '../duration-option.ts'
import { paintFor } from '../output/colours.ts'
import { type Terminal, UsageError } from '../output/terminal.ts'
import { SUMMARIES } from '../summaries.ts'

/** Number of lines in a terminal, unless a number or a time is given. */
const LINES_IN_TERMINAL = 50

export const logs: Command = {
  name: 'logs',
  operands: ['[SERVICE[/BACKEND]]'],
  summary: SUMMARIES.logs,
  details: [
    'Shows the kept output of all services with a command, of one, or of one backend, named by its instance (web/web.1), its slot',
    `(web/web-1) or its id. Reads files, so it works while the broker is stopped too. In a terminal, the last ${LINES_IN_TERMINAL} lines, unless`,
    '--lines or --since says otherwise; to a file or a pipe, all that is kept. With --follow, Ctrl-C quits.',
  ].join('\n'),
  options: {
    follow: { short: 'f', help: 'go on with later lines, over reloads and restarts of the broker' },
    since: {
      value: 'TIME',
      help: 'only lines since then: a duration such as 10m, or a time such as 2026-11-29T08:00',
    },
    lines: { short: 'n', value: 'N', help: 'only the last N lines, before those that --follow adds' },
    json: { help: 'print each line as JSON, with time, service, instance, backend, slot and stream' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const since = sinceOf(values.get('since'))
    const lines = linesOf(values.get('lines'))
    const isShort = terminal.display !== undefined && since === undefined
    const target = targetOf(operands[0])
    const { runtimeDir, services } = locateServices(values.get('config') ?? DEFAULT_CONFIG)
    const folder = join(runtimeDir, 'output')
    const reader = await import('../kept-output.ts')
    try {
      const names = servicesOf(target.service, await reader.keptServices(folder), services)
      const { service, backend } = target
      if (service !== undefined && backend !== undefined && !isInstance(service, backend, services))
        if (!(await reader.isKept(folder, service, backend))) throw unknownBackend(service, backend)
      const request = {
        folder,
        services: names,
        backend,
        follow: switches.has('follow'),
        since,
        lines: lines ?? (isShort ? LINES_IN_TERMINAL : undefined),
        format: switches.has('json') ? (line: OutputLine) => JSON.stringify(line) : textOf(terminal),
      }
      await reader.printLogs(request, terminal)
      return DONE
    } catch (error) {
      if (error instanceof CommandError || errnoOf(error) === undefined) throw error
      throw new CommandError(`cannot read the kept output in ${folder}: ${(error as Error).message}`, {
        cause: error,
      })
    }
  },
}

type Services = ReturnType<typeof locateServices>['services']

/**
 * Those of the configuration that have a command, and those of which something is kept; or the one that is named.
 *
 * @throws {CommandError}
 */
function servicesOf(service: string | undefined, kept: readonly string[], services: Services): string[] {
  const managed = [...services].filter(([, { managed: is }]) => is).map(([name]) => name)
  const known = [...new Set([...managed, ...kept])]
  if (service === undefined) return known
  if (known.includes(service)) return [service]
  if (services.has(service)) {
    const why = 'Baton does not start its backends (it has no "command"), so it does not see their output'
    throw new CommandError(`service ${service}: ${why}`, { exitCode: USAGE })
  }
  const all = [...new Set([...services.keys(), ...known])]
  const near = instanceOf(service, all) ?? nearMiss(service, all)
  const hint = near === undefined ? `there are: ${all.join(', ')}` : `did you mean ${near}?`
  const code = 'BATON_ERR_UNKNOWN_SERVICE'
  throw new CommandError(`there is no service ${JSON.stringify(service)}; ${hint}`, { exitCode: USAGE, code })
}

/** Lines begin with the instance alone, so it is typed without its service. */
function instanceOf(name: string, services: readonly string[]): string | undefined {
  const service = services.find((each) => name.startsWith(`${each}.`) || name.startsWith(`${each}-`))
  return service !== undefined && /^[.-]\d+$/.test(name.slice(service.length))
    ? `${service}/${name}`
    : undefined
}

/** Whether it is the name of an instance that the configuration has, and that may have printed nothing. */
function isInstance(service: string, backend: string, services: Services): boolean {
  const number = backend.startsWith(`${service}.`) ? backend.slice(service.length + 1) : ''
  return /^[1-9]\d*$/.test(number) && Number(number) <= (services.get(service)?.instances ?? 0)
}

function unknownBackend(service: string, backend: string): CommandError {
  const why = `nothing is kept of a backend ${JSON.stringify(backend)} of service ${service}`
  return new CommandError(`${why}; name it by its instance (${service}.1), slot (${service}-1) or id`, {
    exitCode: USAGE,
  })
}

function textOf(terminal: Terminal): (line: OutputLine) => string {
  const paint = paintFor(terminal)
  return ({ time, instance, stream, msg }) => {
    const source = `${instance} ${stream}`
    return `${paint('dim', time)} ${stream === 'stderr' ? paint('red', source) : paint('cyan', source)} | ${msg}`
  }
}

function targetOf(operand: string | undefined): {
  service: string | undefined
  backend: string | undefined
} {
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
