import { isMainThread } from 'node:worker_threads'
import { firstParent, masterOf, watchMaster } from './master-watch.ts'

/** Drains one part of this process; resolves when it serves no client. */
export type Leave = () => Promise<unknown>

/** How long a process that serves no clients stays for processes that need it: as long as backends get to drain. */
const STOP_TIMEOUT_MS = 30_000

/** How often to check whether another process still needs this one. */
const CHECK_INTERVAL_MS = 1000

/** From SIGTERM to SIGKILL: as much as a master gives a process that has drained. */
const GRACE_MS = 10_000

/** State shared by all copies of this package in one process. Other versions read it, so members may be added but not changed. */
interface Shared {
  gone: boolean
  readonly leaving: Set<Leave>
  /** Set once the master is gone: starts draining a part that was added afterwards. */
  late: ((leave: Leave) => void) | undefined
}

const KEY = Symbol.for('@baton/backend-sdk/master')

let ours: Shared | undefined

/**
 * Starts watching the master that started this process, if one did. Called as soon as this package is loaded: the master may die
 * while the app is starting, and some processes never create a backend.
 */
export function watchFromStart(): void {
  ours ??= share()
}

/**
 * Whether the master that started this process is gone. No other master will restart or stop this process, and the next one
 * starts its own. False for a process that Baton did not start.
 */
export function isOrphaned(): boolean {
  return ours?.gone === true
}

/**
 * Calls `leave` when the master is gone, never before this returns, and then ends this process as the master would have done: with
 * SIGTERM, and SIGKILL if it does not exit.
 *
 * @returns to be called when there is nothing left to drain
 */
export function stopWithMaster(leave: Leave): () => void {
  const shared = (ours ??= share())
  shared.leaving.add(leave)
  shared.late?.(leave)
  return () => void shared.leaving.delete(leave)
}

/** The first copy of this package in the process watches on behalf of all. */
function share(): Shared {
  const known = Reflect.get(globalThis, KEY) as Shared | undefined
  if (known !== undefined) return known
  const created: Shared = { gone: false, leaving: new Set(), late: undefined }
  Reflect.set(globalThis, KEY, created)
  const master = masterOf(process.env)
  if (master !== undefined) watchMaster(master, () => orphaned(created))
  return created
}

function orphaned(known: Shared): void {
  known.gone = true
  let left = 0
  const begin = (leave: Leave) => {
    left += 1
    void leave().then(over, over)
  }
  const over = () => {
    left -= 1
    if (left === 0) end()
  }
  known.late = (leave) => setImmediate(begin, leave)
  for (const leave of known.leaving) begin(leave)
  if (left === 0) endUnlessNeeded(() => left > 0)
}

/**
 * Ends a process that serves no clients, once no other process needs it: a launcher (`npm start`), a helper of an app that is still
 * answering, or an app that does not listen yet. It is needed while it has children, and while the parent that started it lives.
 */
function endUnlessNeeded(serves: () => boolean): void {
  const until = performance.now() + STOP_TIMEOUT_MS
  const check = () => {
    if (serves()) return clearInterval(checks)
    const needed = hasChildren() || (process.ppid === firstParent && firstParent !== 1)
    if (needed && performance.now() < until) return undefined
    clearInterval(checks)
    return end()
  }
  const checks = setInterval(check, CHECK_INTERVAL_MS)
  checks.unref()
}

function hasChildren(): boolean {
  return process.getActiveResourcesInfo().includes('ProcessWrap')
}

let ending = false

function end(): void {
  if (ending) return
  ending = true
  // This is a Worker, and other threads may still have clients.
  if (!isMainThread) return void setTimeout(signal, STOP_TIMEOUT_MS).unref()
  signal()
}

function signal(): void {
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), GRACE_MS).unref()
  process.kill(process.pid, 'SIGTERM')
}

let guarded = false

/**
 * Keeps a process that Baton started alive when its output fails. The master reads that output; if the master is killed, the next
 * log line gets EPIPE, and an unhandled EPIPE would end the process and its connections.
 */
export function outliveReader(env: NodeJS.ProcessEnv): void {
  if (guarded || env['BATON_MASTER_PID'] === undefined) return
  guarded = true
  for (const output of [process.stdout, process.stderr]) {
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
    })
  }
}
