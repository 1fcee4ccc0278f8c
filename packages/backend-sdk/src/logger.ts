/** The part of pino's interface that the SDK uses; `console` does not fit, pino and Fastify's `app.log` do. */
export interface Logger {
  /** What went as it should. */
  info(context: object, message: string): void
  /** What an operator should look at. */
  warn(context: object, message: string): void
  /** What went wrong for a client. */
  error(context: object, message: string): void
}

/** Without a logger of the app's, what an operator must see goes to stderr, a line each. */
export const stderrLogger: Logger = {
  info: print,
  warn: print,
  error: print,
}

function print(context: object, message: string): void {
  const details = Object.entries(context).map(
    ([key, value]) => ` ${key}=${value instanceof Error ? value.message : String(value)}`,
  )
  process.stderr.write(`baton: ${message}${details.join('')}\n`)
}
