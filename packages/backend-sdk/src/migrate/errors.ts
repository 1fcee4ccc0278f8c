import { BackendError } from '../errors.ts'
import type { Logger } from '../logger.ts'

const CODES = [
  'BATON_ERR_STATE_FAILED',
  'BATON_ERR_STATE_INVALID',
  'BATON_ERR_STATE_TOO_LARGE',
  'BATON_ERR_RESUME_FAILED',
  'BATON_ERR_ANSWER_DIFFERS',
] as const

/** Stable codes of `MigrationError`; docs/reference/errors.md has cause and remedy of each. */
export type MigrationErrorCode = (typeof CODES)[number]

/** A connection could not be handed back, or not be resumed. It is logged: no call of the app could throw it. */
export class MigrationError extends BackendError {
  declare readonly code: MigrationErrorCode

  constructor(code: MigrationErrorCode, detail?: string, options?: ErrorOptions) {
    super(code, detail, options)
    this.name = 'MigrationError'
  }
}

/** How often each has occurred in this process. */
export type MigrationErrorCounts = Record<MigrationErrorCode, number>

export function noMigrationErrors(): MigrationErrorCounts {
  return Object.fromEntries(CODES.map((code) => [code, 0])) as MigrationErrorCounts
}

/** Logs to `logger`, and counts each `MigrationError` there: what is counted and what is in the log agree. */
export function countingLogger(logger: Logger, counts: MigrationErrorCounts): Logger {
  const counted =
    (level: keyof Logger) =>
    (context: object, message: string): void => {
      const error: unknown = Reflect.get(context, 'error')
      if (error instanceof MigrationError) counts[error.code] += 1
      logger[level](context, message)
    }
  return { info: counted('info'), warn: counted('warn'), error: counted('error') }
}
