import { exitAtOnce } from '@baton/native-sendmsg'
import { leaveClosedTerminals } from './leave-terminals.ts'
import { Sink } from './sink.ts'

/** How long an exiting process waits for its output to be written, in ms. */
const END_TIMEOUT_MS = 500

const sinks = new Map<1 | 2, Sink>()

function sinkOf(fd: 1 | 2): Sink {
  const known = sinks.get(fd)
  if (known !== undefined) return known
  if (sinks.size === 0)
    process.on('exit', () => {
      sinks.forEach((sink) => sink.exit())
      leaveClosedTerminals()
    })
  const sink = new Sink(fd)
  sinks.set(fd, sink)
  return sink
}

/** Standard output of a master or a worker, which must keep running if it fails. One `Sink` per process. */
export const standardOutput = (): Sink => sinkOf(1)

/** As `standardOutput`, for standard error. */
export const standardError = (): Sink => sinkOf(2)

/**
 * Waits a short time for pending output to be written. Later lines are written only if that is possible immediately.
 *
 * @returns false if a thread is stuck in a write, for which `process.exit` would wait
 */
export async function finishOutput(): Promise<boolean> {
  const done = await Promise.all([...sinks.values()].map((sink) => sink.settled(END_TIMEOUT_MS)))
  for (const sink of sinks.values()) sink.close()
  return done.every(Boolean)
}

/** Ends the process after writing pending output, if possible. */
export function exitProcess(code: number): void {
  void finishOutput().then((done) => (done ? process.exit(code) : exitAtOnce(code)))
}
