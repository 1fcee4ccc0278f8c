export type OutputStream = 'stdout' | 'stderr'

/** The process that a line comes from. */
export interface OutputSource {
  readonly service: string
  /** Such as `web.1`. */
  readonly instance: string
  /** ULID. */
  readonly backend: string
  /** Such as `web-1`; null until the process has registered. */
  readonly slot: string | null
}

/** A line of output as it is kept: a line of JSON. */
export interface OutputLine extends OutputSource {
  /** When it was read; ISO 8601. */
  readonly time: string
  readonly stream: OutputStream
  readonly msg: string
}

/** Lines are joined up to this size, in characters: the unit in which they are written, or dropped. */
const GROUP_SIZE = 8192

/** Text of lines as they are kept, in groups of whole lines. */
export function* formatLines(
  source: OutputSource,
  stream: OutputStream,
  lines: readonly string[],
  time: Date,
): Generator<string> {
  const { service, instance, backend, slot } = source
  const facts = JSON.stringify({ time: time.toISOString(), service, instance, backend, slot, stream })
  const head = `${facts.slice(0, -1)},"msg":`
  let group = ''
  for (const line of lines) {
    group += `${head}${JSON.stringify(line)}}\n`
    if (group.length < GROUP_SIZE) continue
    yield group
    group = ''
  }
  if (group !== '') yield group
}

/** Undefined for a line that was cut off when its writer was killed. */
export function parseLine(text: string): OutputLine | undefined {
  try {
    const line = JSON.parse(text) as OutputLine | null
    return typeof line?.msg === 'string' && typeof line.time === 'string' ? line : undefined
  } catch {
    return undefined
  }
}
