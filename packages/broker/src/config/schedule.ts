import * as z from 'zod'
import { FORM, MAX_MS, parseDuration } from './duration.ts'
import { ConfigError, type ConfigProblem, errnoOf } from './error.ts'

const EXPECTED = 'expected a duration like "12h", or a cron expression like "0 4 * * *"'

/** Five or six fields, or a nickname. Whether it makes sense is known by the library that reads it (`checkSchedules`). */
const CRON = /^(?:@[a-z]+|[^\s@]+(?: +[^\s]+){4,5})$/i

/** A configuration value that is a duration (its output is milliseconds), or a cron expression (which stays a string). */
export function schedule() {
  return z
    .string({ error: EXPECTED })
    .transform((text, context) => {
      const ms = FORM.test(text) ? (parseDuration(text) ?? MAX_MS + 1) : undefined
      if (ms === undefined && CRON.test(text)) return text
      if (ms !== undefined && ms >= 1000 && ms <= MAX_MS) return ms
      const message = ms === undefined ? EXPECTED : `must be from 1s to ${MAX_MS} ms`
      context.addIssue({ code: 'custom', message })
      return z.NEVER
    })
    .meta({ title: 'schedule' })
}

/** The times of a cron expression, in the time zone of this process. */
export interface CronTimes {
  /** The first one after `time`; undefined: never. Both in ms since the Unix epoch. */
  after(time: number): number | undefined
}

/**
 * Loads the library that reads cron expressions: only where there is one.
 *
 * @throws {Error} with the reason; of a library, for people
 */
export async function readCron(line: string): Promise<CronTimes> {
  const { Cron } = await import('croner')
  const cron = new Cron(line, { paused: true })
  return { after: (time) => cron.nextRun(new Date(time))?.getTime() }
}

/**
 * Checks what the schema cannot: each cron expression. Workers need not do it again.
 *
 * @throws {ConfigError}
 */
export async function checkSchedules(
  file: string | undefined,
  services: ReadonlyMap<string, { readonly restartEvery: number | string | null }>,
): Promise<void> {
  const problems: ConfigProblem[] = []
  for (const [name, { restartEvery }] of services) {
    if (typeof restartEvery !== 'string') continue
    const problem = await problemOf(restartEvery)
    if (problem !== undefined) problems.push({ path: `services.${name}.restartEvery`, message: problem })
  }
  if (problems.length > 0) throw new ConfigError(file, problems)
}

async function problemOf(line: string): Promise<string | undefined> {
  const quoted = JSON.stringify(line)
  try {
    const times = await readCron(line)
    return times.after(Date.now()) === undefined ? `${quoted} has no time in the future` : undefined
  } catch (error) {
    // The files of this program were replaced. The next one checks it too.
    if (errnoOf(error) === 'ERR_MODULE_NOT_FOUND') return undefined
    const why = error instanceof Error ? error.message.replace(/^\w+: /, '') : String(error)
    return `${quoted} is no cron expression: ${why}`
  }
}
