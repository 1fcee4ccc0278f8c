/** Every error that the broker itself raises. Match on its `code`, which is stable. */
export const messages = {
  BATON_ERR_LISTEN: 'cannot listen',
  BATON_ERR_RUNTIME_DIR: 'the runtime folder cannot be used',
  BATON_ERR_TEMPORARY_FOLDER: 'the temporary folder cannot be used',
  BATON_ERR_FILES_MISSING: 'a file that the broker needs is gone and cannot be created again',
  BATON_ERR_ALREADY_RUNNING: 'another broker serves this runtime folder; stop it, or set another runtimeDir',
  BATON_ERR_WORKER_UNCLAIMED: 'cannot take over the worker of a master that was killed',
  BATON_ERR_NO_MASTER: 'the broker has no master, because it was killed',
  BATON_ERR_PROGRAM_GONE: "the broker's program is no longer installed",
  BATON_ERR_WORKER_FAILED: 'the worker process did not start',
  BATON_ERR_WORKER_SILENT: 'a worker stopped responding',
  BATON_ERR_LOG_STUCK: 'the log cannot be written: its disk does not respond',
  BATON_ERR_BACKENDS_NOT_MOVED: 'not every backend has moved to the new worker',
  BATON_ERR_BACKEND_FOLDER: "the service's working directory cannot be used",
  BATON_ERR_NOT_MANAGED:
    'the service has no command: start the new version yourself, then drain the old one with baton drain',
  BATON_ERR_UNKNOWN_SERVICE: 'there is no such service',
  BATON_ERR_DEPLOY_RUNNING: 'a deploy is already in progress',
  BATON_ERR_NO_CANARY: 'a canary is not possible',
  BATON_ERR_MEMORY_LIMIT: 'a backend is above maxMemory right after its start',
  BATON_ERR_NOT_REPLACED: 'a backend could not be replaced, and stays',
  BATON_ERR_ENV_FILE: 'the variables of the environment cannot be read',
  BATON_ERR_SCALE: 'the number of instances cannot be changed',
} as const

export type BrokerErrorCode = keyof typeof messages

export class BrokerError extends Error {
  readonly code: BrokerErrorCode

  constructor(code: BrokerErrorCode, detail: string, options?: ErrorOptions) {
    super(`${messages[code]}: ${detail}`, options)
    this.name = 'BrokerError'
    this.code = code
  }
}

/** The code with which `describeError` has ended a text; undefined if it has none. */
export function codeIn(text: string): string | undefined {
  return /\((BATON_ERR_[A-Z_]+)\)$/.exec(text)?.[1]
}

/** For operators, where a worker goes on without its master. */
export function withoutMaster(): BrokerError {
  return new BrokerError('BATON_ERR_NO_MASTER', '"baton start" takes over from it')
}

/** A command names a service that the active configuration does not have. */
export function unknownService(name: string, known: Iterable<string>): BrokerError {
  return new BrokerError(
    'BATON_ERR_UNKNOWN_SERVICE',
    `${JSON.stringify(name)}; there are: ${[...known].join(', ')}`,
  )
}

/** The text of an error for people: its message, followed by its code in parentheses if it is one of Baton's. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? error.code : undefined
  if (typeof code !== 'string' || !code.startsWith('BATON_ERR_')) return error.message
  if (error.message.endsWith(`(${code})`)) return error.message
  return `${error.message}${error.message.includes('\n') ? '\n' : ' '}(${code})`
}
