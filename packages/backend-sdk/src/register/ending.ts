import { APP_ASKED, type Backend, SERVER_CLOSED } from '../backend.ts'
import { appDecides } from './decides.ts'

/** A process that SIGTERM has ended, as a shell reports it. */
const TERMINATED = 128 + 15

/** Backends that have not drained yet. */
const living = new Set<Backend>()
let watching = false
/** Somebody other than the app wants this process to end: the operator, or who sent SIGTERM. */
let ending = false

/**
 * An app that knows nothing of Baton cannot know when to end, either. It ends
 * - after SIGTERM, when the app has no listener of its own for it: all backends are drained first. A second one ends it at once;
 * - when the operator drains it (a deploy): once all of its backends have drained.
 *
 * An app that closes its servers itself goes on to do what it likes.
 */
export function endWith(backend: Backend): void {
  if (!watching) watchSigterm()
  living.add(backend)
  backend.once('drain', (reason) => {
    if (reason !== SERVER_CLOSED && reason !== APP_ASKED) ending = true
    void backend.drain().then(() => gone(backend))
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
  if (ending) process.exit(TERMINATED)
  ending = true
  if (living.size === 0) process.exit()
  for (const backend of living) void backend.drain()
}
