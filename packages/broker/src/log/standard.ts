import { exitAtOnce } from '@baton/native-sendmsg'
import { leaveClosedTerminals } from './leave-terminals.ts'
import { Sink } from './sink.ts'

/** How long the end of a process waits for its output to be written, in ms. */
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

/** Standard output of a process that must not depend on it: a master or a worker. There is one `Sink` for it. */
export const standardOutput = (): Sink => sinkOf(1)

/** The same for standard error. */
export const standardError = (): Sink => sinkOf(2)

/**
 * Waits until everything is written, for a short time. Lines that come later are written if that is possible at once.
 *
 * @returns false when a thread is stuck in a write, which `process.exit` would wait for
 */
export async function finishOutput(): Promise<boolean> {
  const done = await Promise.all([...sinks.values()].map((sink) => sink.settled(END_TIMEOUT_MS)))
  for (const sink of sinks.values()) sink.close()
  return done.every(Boolean)
}

/** Ends the process, with the output written if it can be. */
export function exitProcess(code: number): void {
  void finishOutput().then((done) => (done ? process.exit(code) : exitAtOnce(code)))
}
