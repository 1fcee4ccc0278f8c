import { APP_ASKED, type Backend, type DrainOptions, SERVER_CLOSED } from '../backend.ts'
import { appDecides } from './decides.ts'

/** Exit code of a process killed by SIGTERM, as shells report it. */
const TERMINATED = 128 + 15

/** Value of `baton run --drain-deadline`, in milliseconds. */
const { BATON_DRAIN_DEADLINE } = process.env
const deadline: DrainOptions =
  BATON_DRAIN_DEADLINE === undefined || !/^\d+$/.test(BATON_DRAIN_DEADLINE)
    ? {}
    : { deadline: Number(BATON_DRAIN_DEADLINE) }

/**
 * How long the master may take, in ms, to send SIGTERM to a process that has drained. It does so at a deploy and at a stop, within milliseconds,
 * and not when the operator drains a single backend (`baton drain`).
 */
const SIGTERM_TIMEOUT_MS = 5000

/** Backends that have not drained yet. */
const living = new Set<Backend>()
let watching = false
/** This process is to end, by the operator's request or by SIGTERM, not by the app's own decision. */
let ending = false
let terminated = false
/** The app's own SIGTERM handlers have been called: they decide when to exit. */
let appEnds = false
let untilSigterm: NodeJS.Timeout | undefined
/** The master was late, and its SIGTERM does not count: the app's handlers have run, and one that was added with `once` is gone. */
let hasSentSigterm = false

/**
 * Decides when to exit, which an unmodified app cannot know. It exits
 * - after SIGTERM, unless the app handles that itself: all backends drain first. A second SIGTERM ends it immediately.
 * - when the operator drains it, once all its backends have drained. A deploy drains only the backend with the id that Baton gave
 *   this process; the others are drained along with it. An app that handles SIGTERM gets it then, as it would from any other
 *   supervisor: frameworks close databases and flush logs there.
 *
 * An app that closes its servers itself is not ended.
 */
export function endWith(backend: Backend): void {
  if (!watching) watchSigterm()
  living.add(backend)
  backend.once('drain', (reason) => {
    if (reason !== SERVER_CLOSED && reason !== APP_ASKED) {
      ending = true
      // One that is draining keeps the operator's deadline.
      if (backend.id === process.env['BATON_BACKEND_ID']) drainAll(({ state }) => state !== 'draining')
    }
    void backend.drain().then(() => gone(backend))
  })
}

function gone(backend: Backend): void {
  living.delete(backend)
  if (!ending || living.size > 0 || appEnds) return
  if (!appDecides(1)) process.exit()
  // Keeps the process alive as well: with its servers drained, it may have nothing else to wait for.
  untilSigterm = setTimeout(() => {
    process.kill(process.pid, 'SIGTERM')
    hasSentSigterm = true
  }, SIGTERM_TIMEOUT_MS)
}

/** Runs before the app's listeners, so that one that removes itself when called (`once`) is still counted. */
function watchSigterm(): void {
  watching = true
  process.prependListener('SIGTERM', terminate)
}

function terminate(): void {
  clearTimeout(untilSigterm)
  if (appEnds && hasSentSigterm) return
  // A handler that was added with `once` is gone at the second signal.
  appEnds = appDecides(1)
  if (appEnds) return
  if (terminated) process.exit(TERMINATED)
  terminated = ending = true
  if (living.size === 0) process.exit()
  drainAll()
}

function drainAll(which: (backend: Backend) => boolean = () => true): void {
  for (const backend of living) if (which(backend)) void backend.drain(deadline)
}
