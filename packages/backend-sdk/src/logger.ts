/** The part of pino's interface that the SDK uses. pino and Fastify's `app.log` fit; `console` does not. */
export interface Logger {
  /** Normal events. */
  info(context: object, message: string): void
  /** Problems that an operator should check. */
  warn(context: object, message: string): void
  /** Failures that a client noticed. */
  error(context: object, message: string): void
}

/**
 * The default logger: one line per event on stderr. A line that cannot be written (a full disk, a reader that has gone) is lost, as one of
 * `console` is: an unhandled error of the stream would end the app.
 */
export const stderrLogger: Logger = {
  info: print,
  warn: print,
  error: print,
}

function print(context: object, message: string): void {
  const details = Object.entries(context).map(
    ([key, value]) => ` ${key}=${value instanceof Error ? value.message : String(value)}`,
  )
  const { stderr } = process
  try {
    stderr.write(`baton: ${message}${details.join('')}\n`, (error) => {
      // The stream emits it after this call.
      if (error) stderr.off('error', ignore).once('error', ignore)
    })
  } catch {
    // Deno throws it.
  }
}

function ignore(): void {}
