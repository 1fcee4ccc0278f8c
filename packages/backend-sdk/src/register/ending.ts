import { APP_ASKED, type Backend, type DrainOptions, SERVER_CLOSED } from '../backend.ts'
import { appDecides } from './decides.ts'

/** A process that SIGTERM has ended, as a shell reports it. */
const TERMINATED = 128 + 15

/** What `baton run --drain-deadline` says, in milliseconds. */
const { BATON_DRAIN_DEADLINE } = process.env
const deadline: DrainOptions =
  BATON_DRAIN_DEADLINE === undefined || !/^\d+$/.test(BATON_DRAIN_DEADLINE)
    ? {}
    : { deadline: Number(BATON_DRAIN_DEADLINE) }

/** Backends that have not drained yet. */
const living = new Set<Backend>()
let watching = false
/** Somebody other than the app wants this process to end: the operator, or who sent SIGTERM. */
let ending = false
let terminated = false

/**
 * An app that knows nothing of Baton cannot know when to end, either. It ends
 * - after SIGTERM, when the app has no listener of its own for it: all backends are drained first. A second one ends it at once;
 * - when the operator drains it: once all of its backends have drained. A deploy drains the one that Baton knows this process by,
 *   and the others go with it.
 *
 * An app that closes its servers itself goes on to do what it likes.
 */
export function endWith(backend: Backend): void {
  if (!watching) watchSigterm()
  living.add(backend)
  backend.once('drain', (reason) => {
    if (reason !== SERVER_CLOSED && reason !== APP_ASKED) {
      ending = true
      if (backend.id === process.env['BATON_BACKEND_ID']) drainAll()
    }
    void backend.drain(deadline).then(() => gone(backend))
  })
}

function gone(backend: Backend): void {
  living.delete(backend)
  if (ending && living.size === 0) process.exit()
}

/** Before those of the app: one that removes itself when it is called (`once`) is still there to be counted. */
function watchSigterm(): void {
  watching = true
  process.prependListener('SIGTERM', terminate)
}

function terminate(): void {
  if (appDecides(1)) return
  if (terminated) process.exit(TERMINATED)
  terminated = ending = true
  if (living.size === 0) process.exit()
  drainAll()
}

function drainAll(): void {
  for (const backend of living) void backend.drain(deadline)
}
