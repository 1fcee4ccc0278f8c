import { printable } from './printable.ts'

/** Numbers of pino's levels. */
const WARN = 40
const ERROR = 50

/** Said once at the start of a line, or of no use to a person. */
const OMITTED = new Set(['time', 'pid', 'hostname', 'name', 'msg', 'level', 'reason'])
/** Of a managed backend, whose instance stands before the line. */
const OF_INSTANCE = new Set(['service', 'instance', 'backend', 'peerPid', 'stream'])

/**
 * For a person: what a JSON log line says; any other line as it is, and so what a managed backend prints. The broker's own lines
 * repeat what backends say of themselves (why one drains, its version), which is not to reach the terminal's control.
 */
export function readable(line: string): string {
  const entry = parse(line)
  if (entry === undefined) return line
  const { msg, reason, level, instance, stream } = entry
  if (typeof instance === 'string' && typeof stream === 'string') return `${instance} | ${String(msg)}`
  const whose = typeof instance === 'string' ? OF_INSTANCE : undefined
  const more = Object.entries(entry)
    .filter(([name]) => !OMITTED.has(name) && whose?.has(name) !== true)
    .map(([name, value]) => ` ${name}=${shown(value)}`)
  const text = [
    ...(typeof instance === 'string' ? [`${instance} | `] : []),
    ...(typeof level === 'number' && level >= WARN ? [level >= ERROR ? 'error: ' : 'warning: '] : []),
    String(msg),
    ...(typeof reason === 'string' ? [`: ${reason}`] : []),
    ...more,
  ].join('')
  // What has several lines (the faults of a configuration) keeps them; none of them passes for another line of the log.
  return text.split('\n').map(printable).join('\n  ')
}

function parse(line: string): Record<string, unknown> | undefined {
  try {
    const entry = JSON.parse(line) as Record<string, unknown> | null
    return typeof entry?.['msg'] === 'string' ? entry : undefined
  } catch {
    return undefined
  }
}

/** Text as it is, where it cannot be taken for something else. */
function shown(value: unknown): string {
  if (typeof value === 'string' && /^[\w.:/@-]+$/.test(value)) return value
  if (value instanceof Object && 'message' in value) return JSON.stringify(value.message)
  return JSON.stringify(value)
}
