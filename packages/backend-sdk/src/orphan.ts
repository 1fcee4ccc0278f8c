import { isMainThread } from 'node:worker_threads'
import { firstParent, masterOf, watchMaster } from './master-watch.ts'

/** Ends what a part of this process does for clients; resolves when none is left. */
export type Leave = () => Promise<unknown>

/** How long a process that serves no clients goes on for those who need it, in milliseconds: the time that backends get to drain. */
const STOP_TIMEOUT_MS = 30_000

/** Time between two looks at whether another process still needs this one, in milliseconds. */
const CHECK_INTERVAL_MS = 1000

/** Time from SIGTERM to SIGKILL, in milliseconds: what a master gives a process that has drained. */
const GRACE = 10_000

/** What all copies of this package in one process share. Its shape is read by other versions: members are added, not changed. */
interface Shared {
  gone: boolean
  readonly leaving: Set<Leave>
  /** Set once the master is gone. */
  late: ((leave: Leave) => void) | undefined
}

const KEY = Symbol.for('@baton/backend-sdk/master')

let ours: Shared | undefined

/**
 * Begins to watch the master that started this process, if one did. To be called when a program loads this package: the master may die
 * while the app still starts, and some processes never create a backend.
 */
export function watchFromStart(): void {
  ours ??= share()
}

/**
 * Whether the master that started this process is gone. No master would replace or stop this process any more, and the next
 * one starts processes of its own. False for a process that Baton did not start.
 */
export function isOrphaned(): boolean {
  return ours?.gone === true
}

/**
 * When the master is gone, `leave` is called, and then this process is ended as the master would have done: SIGTERM, and SIGKILL
 * if that does not help. Never called before this returns.
 *
 * @returns to be called when there is nothing left to be ended
 */
export function stopWithMaster(leave: Leave): () => void {
  const shared = (ours ??= share())
  shared.leaving.add(leave)
  shared.late?.(leave)
  return () => void shared.leaving.delete(leave)
}

/** The first copy of this package in the process watches for all. */
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
 * A process that serves no clients: one that starts others (`npm start`), one that helps an app to answer what is under way, or an app
 * that has not come to listen. It is needed while it has children, and by its parent while that lives.
 */
function endUnlessNeeded(serves: () => boolean): void {
  const until = performance.now() + STOP_TIMEOUT_MS
  const look = () => {
    if (serves()) return clearInterval(looks)
    const needed = hasChildren() || (process.ppid === firstParent && firstParent !== 1)
    if (needed && performance.now() < until) return undefined
    clearInterval(looks)
    return end()
  }
  const looks = setInterval(look, CHECK_INTERVAL_MS)
  looks.unref()
}

function hasChildren(): boolean {
  return process.getActiveResourcesInfo().includes('ProcessWrap')
}

let ending = false

function end(): void {
  if (ending) return
  ending = true
  // Other threads may still have clients.
  if (!isMainThread) return void setTimeout(signal, STOP_TIMEOUT_MS).unref()
  signal()
}

function signal(): void {
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), GRACE).unref()
  process.kill(process.pid, 'SIGTERM')
}

let guarded = false

/**
 * The output of a process that Baton has started is read by its master. When that is killed, a line of log must not end the
 * process and the connections that it has: an EPIPE that nobody listens for does.
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
