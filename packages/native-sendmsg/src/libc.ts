import { createRequire } from 'node:module'
import { endianness } from 'node:os'
import type * as Koffi from 'koffi'
import { SYS_KCMP, SYS_PIDFD_OPEN } from './abi.ts'
import { UnsupportedPlatformError } from './errors.ts'
import { SYS_IO_URING_ENTER, SYS_IO_URING_SETUP } from './ring-abi.ts'

/**
 * The process's own C library, through koffi.
 *
 * All arguments are numbers: descriptors, flags, and addresses of memory that an `Arena` owns. An address
 * is below 2^48 on both architectures (higher ones only on request), so a double represents it
 * exactly. A call costs about a quarter of a microsecond beyond what the kernel takes.
 *
 * `fcntl`, `open` and `syscall` are variadic in C; on x64 and arm64 Linux, their integer arguments are passed
 * as in any other call.
 */
type Loaded =
  | { readonly koffi: typeof Koffi; readonly library: Koffi.LibraryHandle }
  | { readonly reason: string; readonly cause?: unknown }

/** Maximum calls on threads at a time; others wait. koffi refuses more than 256, and libuv has four threads unless it is told otherwise. */
const MAX_CALLS_ON_THREADS = 128

const loaded = load()

/** True if descriptors can be passed: on Linux x64 or arm64, if koffi loads. */
export const supported: boolean = 'koffi' in loaded

function load(): Loaded {
  if (process.platform !== 'linux') return { reason: `this is ${process.platform}` }
  if (!['x64', 'arm64'].includes(process.arch) || endianness() !== 'LE') {
    return { reason: `this is ${process.arch}` }
  }
  try {
    const koffi: typeof Koffi = createRequire(import.meta.url)('koffi')
    // dlopen(NULL): the running program, including its libc (glibc or musl).
    return { koffi, library: koffi.load(null) }
  } catch (cause) {
    // Node's permission model, or --no-addons.
    const disabled = (cause as NodeJS.ErrnoException).code === 'ERR_DLOPEN_DISABLED'
    const reason = 'native addons are disabled: start Node with --allow-addons beside --permission'
    return { reason: disabled ? reason : 'koffi does not load', cause }
  }
}

function binding(): Extract<Loaded, { koffi: unknown }> {
  if ('koffi' in loaded) return loaded
  throw new UnsupportedPlatformError(loaded.reason, { cause: loaded.cause })
}

/** `word` is an address or a size; `string` is a C string. */
type Kind = 'int' | 'word' | 'string'
type Value = number | string

const TYPES = { int: 'int', word: 'intptr_t', string: 'str' } as const

let errno = 0

/** errno of the last call below that returned -1. As in C, read it before the next call. */
export const lastErrno = (): number => errno

function describe(
  name: string,
  result: 'int' | 'word',
  kinds: readonly Kind[],
): ReturnType<Koffi.LibraryHandle['func']> {
  return binding().library.func(
    name,
    TYPES[result],
    kinds.map((kind) => TYPES[kind]),
  )
}

/** Binds a system call without libc wrapper, through `syscall(number, ...)`. */
function bindNumber(number: number, ...kinds: Kind[]): (...values: Value[]) => number {
  const call = bind('syscall', 'word', 'word', ...kinds)
  return (...values) => call(number, ...values)
}

/** errno is read before anything else runs on this thread that could change it. */
function bind(name: string, result: 'int' | 'word', ...kinds: Kind[]): (...values: Value[]) => number {
  let call: ((...values: Value[]) => number) | undefined
  return (...values) => {
    call ??= describe(name, result, kinds) as (...values: Value[]) => number
    const value = call(...values)
    if (value === -1) errno = binding().koffi.errno()
    return value
  }
}

/** Each function returns what the C function does: -1 for failure, with the reason in `lastErrno()`. */
export const libc = {
  close: bind('close', 'int', 'int'),
  exit: bind('_exit', 'int', 'int'),
  dup3: bind('dup3', 'int', 'int', 'int', 'int'),
  fcntl: bind('fcntl', 'int', 'int', 'int', 'int'),
  open: bind('open', 'int', 'string', 'int', 'int'),
  flock: bind('flock', 'int', 'int', 'int'),
  memfd_create: bind('memfd_create', 'int', 'string', 'int'),
  write: bind('write', 'word', 'int', 'word', 'word'),
  read: bind('read', 'word', 'int', 'word', 'word'),
  pipe2: bind('pipe2', 'int', 'word', 'int'),
  poll: bind('poll', 'int', 'word', 'word', 'int'),
  socket: bind('socket', 'int', 'int', 'int', 'int'),
  socketpair: bind('socketpair', 'int', 'int', 'int', 'int', 'word'),
  bind: bind('bind', 'int', 'int', 'word', 'int'),
  listen: bind('listen', 'int', 'int', 'int'),
  accept4: bind('accept4', 'int', 'int', 'word', 'word', 'int'),
  connect: bind('connect', 'int', 'int', 'word', 'int'),
  shutdown: bind('shutdown', 'int', 'int', 'int'),
  getsockname: bind('getsockname', 'int', 'int', 'word', 'word'),
  getpeername: bind('getpeername', 'int', 'int', 'word', 'word'),
  getsockopt: bind('getsockopt', 'int', 'int', 'int', 'int', 'word', 'word'),
  setsockopt: bind('setsockopt', 'int', 'int', 'int', 'int', 'word', 'int'),
  sendto: bind('sendto', 'word', 'int', 'word', 'word', 'int', 'word', 'int'),
  send: bind('send', 'word', 'int', 'word', 'word', 'int'),
  recv: bind('recv', 'word', 'int', 'word', 'word', 'int'),
  sendmsg: bind('sendmsg', 'word', 'int', 'word', 'int'),
  recvmsg: bind('recvmsg', 'word', 'int', 'word', 'int'),
  sendmmsg: bind('sendmmsg', 'int', 'int', 'word', 'int', 'int'),
  recvmmsg: bind('recvmmsg', 'int', 'int', 'word', 'int', 'int', 'word'),
  epoll_create1: bind('epoll_create1', 'int', 'int'),
  epoll_ctl: bind('epoll_ctl', 'int', 'int', 'int', 'int', 'word'),
  inet_pton: bind('inet_pton', 'int', 'int', 'string', 'word'),
  if_nametoindex: bind('if_nametoindex', 'int', 'string'),
  execve: bind('execve', 'int', 'word', 'word', 'word'),
  /** Returns an error number instead of setting errno. */
  pthread_sigmask: bind('pthread_sigmask', 'int', 'int', 'word', 'word'),
  signal: bind('signal', 'word', 'int', 'word'),
  waitpid: bind('waitpid', 'int', 'int', 'word', 'int'),
  epoll_wait: bind('epoll_wait', 'int', 'int', 'word', 'int', 'int'),
  pidfd_open: bindNumber(SYS_PIDFD_OPEN, 'word', 'word'),
  kcmp: bindNumber(SYS_KCMP, 'word', 'word', 'word', 'word', 'word'),
  io_uring_setup: bindNumber(SYS_IO_URING_SETUP, 'word', 'word'),
  /** Without GETEVENTS, the kernel ignores the last two arguments, which are omitted. */
  io_uring_enter: bindNumber(SYS_IO_URING_ENTER, 'word', 'word', 'word', 'word'),
  /** With a signal mask and its size; 0 and 0 for none. */
  io_uring_wait: bindNumber(SYS_IO_URING_ENTER, 'word', 'word', 'word', 'word', 'word', 'word'),
} as const

/**
 * epoll_wait(2) on a thread of libuv's pool, without a timeout. Resolves to the number of events, or to
 * -errno. The memory at `events` must outlive the call.
 */
export function epollWait(epoll: number, events: number, capacity: number): Promise<number> {
  return onThread('epoll_wait', ['int', 'word', 'int', 'int'], [epoll, events, capacity, -1])
}

/** close(2) on a thread of libuv's pool. Resolves to 0, or to -errno. */
export function closeOnThread(fd: number): Promise<number> {
  return onThread('close', ['int'], [fd])
}

/** send(2) on a thread of libuv's pool: for a socket whose kernel side takes its time. Resolves to the number of bytes, or to -errno. */
export function sendOnThread(fd: number, bytes: number, size: number, flags: number): Promise<number> {
  return onThread('send', ['int', 'word', 'word', 'int'], [fd, bytes, size, flags])
}

/** The same for recv(2). */
export function recvOnThread(fd: number, bytes: number, size: number, flags: number): Promise<number> {
  return onThread('recv', ['int', 'word', 'word', 'int'], [fd, bytes, size, flags])
}

function onThread(name: string, kinds: readonly Kind[], values: Value[]): Promise<number> {
  const call = threaded.get(name) ?? describe(name, 'int', kinds)
  threaded.set(name, call)
  return new Promise((resolve, reject) => {
    const start = () => {
      callsOnThreads += 1
      call.async(...values, (error: Error | null, result: number) => {
        callsOnThreads -= 1
        if (error !== null) reject(error)
        // koffi brings the errno of the thread along.
        else resolve(result === -1 ? -binding().koffi.errno() : result)
        waitingCalls.shift()?.()
      })
    }
    if (callsOnThreads < MAX_CALLS_ON_THREADS) start()
    else waitingCalls.push(start)
  })
}

/** By name: binding a function is the expensive part. */
const threaded = new Map<string, ReturnType<typeof describe>>()
let callsOnThreads = 0
const waitingCalls: (() => void)[] = []

/** Address of a buffer's first byte. The caller ensures that the memory does not move (see `Arena`). */
export function addressOf(buffer: Buffer): number {
  return Number(binding().koffi.address(buffer))
}
