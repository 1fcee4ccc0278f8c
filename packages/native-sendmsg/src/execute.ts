import { isMainThread } from 'node:worker_threads'
import { Arena } from './arena.ts'
import { refuseNul } from './c-string.ts'
import { isCloseOnExec, setCloseOnExec, type BorrowedFd } from './descriptors.ts'
import { EINTR } from './errno.ts'
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
  /** Arguments after `argv[0]`, which is `path`. */
  args: readonly string[]
  /** The whole environment; undefined variables are omitted. */
  env: Readonly<Record<string, string | undefined>>
  /** Descriptors that the program inherits besides 0, 1 and 2, under the same numbers. The caller keeps them on failure. */
  keep: readonly BorrowedFd[]
  /**
   * Keeps signals (see `blockSignals`) pending from this call until the new program calls `unblockSignals`, so that they do not end it while
   * Node starts. Has no effect where that is impossible (see `preloadKeeper`). The new program must call `forgetKeeper`.
   */
  keepSignals?: boolean
  /** Asked last; if it returns true, this throws NativeError EINTR. See `watchCaughtSignals`. */
  isInterrupted?: (() => boolean) | undefined
}

/**
 * Replaces the program of this process, which keeps its pid, its children and the descriptors in `keep`
 * (execve(2)). Does not return. BATON_ERR_INVALID_ARGUMENT outside the main thread and for a NUL in a
 * string; NativeError with `path` from execve (ENOENT, EACCES, E2BIG, ENOEXEC), and with `fd` for a
 * descriptor in `keep` that is not open (EBADF). After an error, nothing has changed, including FD_CLOEXEC.
 *
 * What the caller must know:
 *
 * - Nothing is flushed and no `exit` listener runs: data buffered in streams is lost. Workers and pool threads
 *   end immediately, including the wait of a `Poller`.
 * - No Worker may start a process during the call: the descriptors in `keep` are briefly not CLOEXEC.
 * - The new program receives `keep` without FD_CLOEXEC, and must set it before it starts a process. Any other
 *   descriptor without FD_CLOEXEC is inherited too; those of this package and of Node all have it.
 * - A signal that was caught before, and whose listeners have not run, is lost: see `isInterrupted`.
 * - A signal with a listener has its default action from execve until the new program adds a listener; one
 *   that arrives in between ends the process, unless `keepSignals` is set. Ignored signals stay ignored (signal(7)),
 *   but Node resets them, and the signal mask, when it starts.
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
      if (options.isInterrupted?.() === true) return EINTR
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

/** Runs `call` with FD_CLOEXEC cleared on `fds`. All are checked first, so that nothing changes if one is closed. */
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

/** Memory that execve reads, kept reachable during the call. */
const memory = new Set<Arena>()

/**
 * Lays out two NULL-terminated pointer arrays, followed by their strings. Returns the addresses of the first
 * string, which is the path, and of the arrays.
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
