import { isMainThread } from 'node:worker_threads'
import { Arena } from './arena.ts'
import { refuseNul } from './c-string.ts'
import { isCloseOnExec, setCloseOnExec, type BorrowedFd } from './descriptors.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { poll, POLLNVAL } from './inspect.ts'
import { lastErrno, libc } from './libc.ts'
import { preloadKeeper } from './signal-keeper.ts'
import { blockSignals } from './signals.ts'

const POINTER_SIZE = 8
const STANDARD = [0, 1, 2] as const

export interface ExecuteOptions {
  /** The program's file; PATH is not searched. */
  path: string
  /** What follows `argv[0]`, which is `path`. */
  args: readonly string[]
  /** The whole environment; a variable that is undefined is left out. */
  env: Readonly<Record<string, string | undefined>>
  /** What the program gets besides 0, 1 and 2, under the same numbers. They stay the caller's if it fails. */
  keep: readonly BorrowedFd[]
  /**
   * Signals (see `blockSignals`) are pending from here until the new program calls `unblockSignals`, instead of ending it while Node
   * starts. Where that is not possible (see `preloadKeeper`) it has no effect. The new program takes `forgetKeeper` off its environment.
   */
  keepSignals?: boolean
}

/**
 * Replaces the program of this process, which keeps its pid, its children and the descriptors in `keep`
 * (execve(2)). Does not return. BATON_ERR_INVALID_ARGUMENT outside of the main thread and for a NUL in a
 * string; NativeError with `path` from execve (ENOENT, EACCES, E2BIG, ENOEXEC) and with `fd` for a
 * descriptor in `keep` that is not open (EBADF). After an error everything is as it was, FD_CLOEXEC included.
 *
 * What the caller has to know:
 *
 * - Nothing is flushed and no `exit` listener runs: what waits in a stream is lost. Workers and the threads
 *   of the pool end at once, a wait of a `Poller` too.
 * - No Worker may start a process meanwhile: for an instant what is in `keep` is not CLOEXEC.
 * - The new program gets `keep` without FD_CLOEXEC and sets it again before it starts a process. Whatever else
 *   in this process is not CLOEXEC goes along too: descriptors of this package and of Node all are.
 * - A signal with a listener has its default action again from execve until the new program listens; one
 *   that comes in between ends the process, unless `keepSignals` is set. Ignored signals stay ignored (signal(7)), though
 *   Node resets them, and the signal mask as well, when it starts.
 * - Children are still children, but Node's `ChildProcess` objects are gone: see `openProcess` and `reap`.
 */
export function executeInPlace(options: ExecuteOptions): never {
  const { path, args, keep } = options
  if (!isMainThread) {
    throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', 'execve outside of the main thread')
  }
  const keeper = options.keepSignals === true ? preloadKeeper(options.env) : undefined
  const restore = keeper === undefined ? undefined : blockSignals()
  let errno: number
  try {
    const image = layOut([path, ...args], definitions(keeper?.env ?? options.env))
    const standard = STANDARD.filter((fd) => poll(fd, 0) !== POLLNVAL)
    const kept = keeper === undefined ? keep : [...keep, keeper.file.fd]
    errno = inheriting(new Set([...standard, ...kept]), () => {
      libc.execve(...image)
      return lastErrno()
    })
  } finally {
    memory.clear()
    restore?.()
    keeper?.file.close()
  }
  throw new NativeError('execve', errno, { path })
}

/** Runs `call` while `fds` are not CLOEXEC. All are looked at first, so that a closed one changes nothing. */
function inheriting<T>(fds: ReadonlySet<BorrowedFd>, call: () => T): T {
  const changed = [...fds].filter(isCloseOnExec)
  try {
    for (const fd of changed) setCloseOnExec(fd, false)
    return call()
  } finally {
    for (const fd of changed) setCloseOnExec(fd, true)
  }
}

function definitions(env: ExecuteOptions['env']): string[] {
  return Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
}

/** What execve reads: kept reachable here while it does. */
const memory = new Set<Arena>()

/**
 * Lays two vectors of pointers into `memory`, each ended by NULL, and the strings behind them. Returns the
 * addresses of the first string, which is the path, and of the vectors.
 */
function layOut(
  argv: readonly string[],
  envp: readonly string[],
): [path: number, argv: number, envp: number] {
  const texts = [...argv, ...envp]
  for (const text of texts) refuseNul(text, 'the path, an argument or a variable')
  const strings = texts.map((text) => Buffer.from(`${text}\0`))
  const pointers = (strings.length + 2) * POINTER_SIZE
  const arena = new Arena(strings.reduce((size, string) => size + string.length, pointers))
  let end = pointers
  for (const [index, string] of strings.entries()) {
    const slot = index < argv.length ? index : index + 1
    arena.writePointer(slot * POINTER_SIZE, end)
    end += string.copy(arena.buffer, end)
  }
  memory.add(arena)
  const { address } = arena
  return [address + pointers, address, address + (argv.length + 1) * POINTER_SIZE]
}
