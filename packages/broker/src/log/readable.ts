import { printable } from './printable.ts'

/** Numbers of pino's levels. */
const WARN = 40
const ERROR = 50

/** Fields already shown at the start of the line, or of no use to a human reader. */
const OMITTED = new Set(['time', 'pid', 'hostname', 'name', 'msg', 'level', 'reason'])
/** Fields implied by the instance name at the start of the line of a managed backend. */
const INSTANCE_FIELDS = new Set(['service', 'instance', 'backend', 'peerPid', 'stream'])

/**
 * Formats a JSON log line for a human reader. Any other line is returned unchanged, and so is the text that a managed backend prints. The
 * broker's own lines contain text from backends (a drain reason, a version), so control characters in them are escaped.
 */
export function readable(line: string): string {
  const entry = parse(line)
  if (entry === undefined) return line
  const { msg, reason, level, instance, stream } = entry
  if (typeof instance === 'string' && typeof stream === 'string') return `${instance} | ${String(msg)}`
  const implied = typeof instance === 'string' ? INSTANCE_FIELDS : undefined
  const more = Object.entries(entry)
    .filter(([name]) => !OMITTED.has(name) && implied?.has(name) !== true)
    .map(([name, value]) => ` ${name}=${shown(value)}`)
  const text = [
    ...(typeof instance === 'string' ? [`${instance} | `] : []),
    ...(typeof level === 'number' && level >= WARN ? [level >= ERROR ? 'error: ' : 'warning: '] : []),
    String(msg),
    ...(typeof reason === 'string' ? [`: ${reason}`] : []),
    ...more,
  ].join('')
  // Text of several lines (configuration errors) keeps them, indented so that none looks like a separate log line.
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

/** Text is left unquoted where it is unambiguous. */
function shown(value: unknown): string {
  if (typeof value === 'string' && /^[\w.:/@-]+$/.test(value)) return value
  if (value instanceof Object && 'message' in value) return JSON.stringify(value.message)
  return JSON.stringify(value)
}
