import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { endianness } from 'node:os'
import { SYS_KCMP, SYS_PIDFD_OPEN } from './abi.ts'
import { UnsupportedPlatformError } from './errors.ts'
import { throughFfiRs } from './ffi-rs.ts'
import type { Failure, ForeignFunction, ForeignFunctions, Kind } from './foreign-function.ts'
import { throughKoffi } from './koffi.ts'
import { SYS_IO_URING_ENTER, SYS_IO_URING_SETUP } from './ring-abi.ts'

/**
 * The process's own C library, through ffi-rs, or through koffi if the process was started with `BATON_FFI=koffi`.
 *
 * All arguments are numbers: descriptors, flags, and addresses of memory that an `Arena` owns. An address
 * is below 2^48 on both architectures (higher ones only on request), so a double represents it
 * exactly.
 *
 * `fcntl`, `open` and `syscall` are variadic in C; on x64 and arm64 Linux, their integer arguments are passed
 * as in any other call.
 */
type Loaded = { functions: ForeignFunctions } | { reason: string; cause?: unknown }

const LIBRARIES = { 'ffi-rs': throughFfiRs, koffi: throughKoffi }

let errno = 0

/** errno of the last call below that returned -1. As in C, read it before the next call. */
export const lastErrno = (): number => errno

const loaded = load(chosen())

/** True if descriptors can be passed: on Linux x64 or arm64, if the library loads. */
export const supported: boolean = 'functions' in loaded

function load(name: string): Loaded {
  if (process.platform !== 'linux') return { reason: `this is ${process.platform}` }
  if (!['x64', 'arm64'].includes(process.arch) || endianness() !== 'LE') {
    return { reason: `this is ${process.arch}` }
  }
  if (!isLibrary(name)) return { reason: `BATON_FFI is "${name}", and may be ffi-rs or koffi` }
  try {
    const require = createRequire(import.meta.url)
    return { functions: LIBRARIES[name](require, (code) => (errno = code)) }
  } catch (cause) {
    // Node's permission model, or --no-addons.
    const disabled = (cause as NodeJS.ErrnoException).code === 'ERR_DLOPEN_DISABLED'
    const reason = 'native addons are disabled: start Node with --allow-addons beside --permission'
    return { reason: disabled ? reason : `${name} does not load`, cause }
  }
}

/**
 * From the environment that the process was started with: two of these libraries in one process have crashed it, and a Worker may have other
 * variables.
 */
function chosen(): string {
  try {
    const [, name] = /(?:^|\0)BATON_FFI=([^\0]*)/.exec(readFileSync('/proc/self/environ', 'latin1')) ?? []
    return name ?? 'ffi-rs'
  } catch {
    return 'ffi-rs'
  }
}

function isLibrary(name: string): name is keyof typeof LIBRARIES {
  return Object.hasOwn(LIBRARIES, name)
}

function binding(): ForeignFunctions {
  if ('functions' in loaded) return loaded.functions
  throw new UnsupportedPlatformError(loaded.reason, { cause: loaded.cause })
}

type Binder = (name: string, result: 'int' | 'word', ...kinds: Kind[]) => ForeignFunction

/** Importing this module must not throw where it is not supported: functions are bound when they are first called. */
const binder =
  (failure: Failure): Binder =>
  (name, result, ...kinds) => {
    let call: ForeignFunction | undefined
    return (...values) => (call ??= binding().bind(name, result, kinds, failure))(...values)
  }

const bind = binder('final')
/** For functions that are called for every connection. */
const bindRepeatable = binder('repeatable')
const bindSilent = binder('silent')

/** Binds a system call without libc wrapper, through `syscall(number, ...)`. */
function bindNumber(binds: Binder, number: number, ...kinds: Kind[]): ForeignFunction {
  const call = binds('syscall', 'word', 'word', ...kinds)
  return (...values) => call(number, ...values)
}

/** Each function returns what the C function does: -1 for failure, with the reason in `lastErrno()`. */
export const libc = {
  close: bind('close', 'int', 'int'),
  exit: bind('_exit', 'int', 'int'),
  dup3: bind('dup3', 'int', 'int', 'int', 'int'),
  fcntl: bind('fcntl', 'int', 'int', 'int', 'int'),
  open: bind('open', 'int', 'string', 'int', 'int'),
  flock: bind('flock', 'int', 'int', 'int'),
  fchmod: bind('fchmod', 'int', 'int', 'int'),
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
  /** For every connection. Failure does not matter. */
  trySetsockopt: bindSilent('setsockopt', 'int', 'int', 'int', 'int', 'word', 'int'),
  sendto: bind('sendto', 'word', 'int', 'word', 'word', 'int', 'word', 'int'),
  send: bind('send', 'word', 'int', 'word', 'word', 'int'),
  recv: bind('recv', 'word', 'int', 'word', 'word', 'int'),
  sendmsg: bind('sendmsg', 'word', 'int', 'word', 'int'),
  recvmsg: bind('recvmsg', 'word', 'int', 'word', 'int'),
  sendmmsg: bindRepeatable('sendmmsg', 'int', 'int', 'word', 'int', 'int'),
  recvmmsg: bindRepeatable('recvmmsg', 'int', 'int', 'word', 'int', 'int', 'word'),
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
  pidfd_open: bindNumber(bind, SYS_PIDFD_OPEN, 'word', 'word'),
  kcmp: bindNumber(bind, SYS_KCMP, 'word', 'word', 'word', 'word', 'word'),
  clock_gettime: bind('clock_gettime', 'int', 'int', 'word'),
  io_uring_setup: bindNumber(bind, SYS_IO_URING_SETUP, 'word', 'word'),
  /** Without GETEVENTS, the kernel ignores the last two arguments, which are omitted. */
  io_uring_enter: bindNumber(bindRepeatable, SYS_IO_URING_ENTER, 'word', 'word', 'word', 'word'),
  /** With a signal mask and its size; 0 and 0 for none. */
  io_uring_wait: bindNumber(bind, SYS_IO_URING_ENTER, 'word', 'word', 'word', 'word', 'word', 'word'),
} as const

/**
 * epoll_wait(2) on a thread of libuv's pool, without a timeout. Resolves to the number of events, or to
 * -errno. The memory at `events` must outlive the call.
 */
export function epollWait(epoll: number, events: number, capacity: number): Promise<number> {
  return binding().onThread('epoll_wait', ['int', 'word', 'int', 'int'], [epoll, events, capacity, -1])
}

/** close(2) on a thread of libuv's pool. Resolves to 0, or to -errno. */
export function closeOnThread(fd: number): Promise<number> {
  return binding().onThread('close', ['int'], [fd])
}

/** send(2) on a thread of libuv's pool: for a socket whose kernel side takes its time. Resolves to the number of bytes, or to -errno. */
export function sendOnThread(fd: number, bytes: number, size: number, flags: number): Promise<number> {
  return binding().onThread('send', ['int', 'word', 'word', 'int'], [fd, bytes, size, flags])
}

/** The same for recv(2). */
export function recvOnThread(fd: number, bytes: number, size: number, flags: number): Promise<number> {
  return binding().onThread('recv', ['int', 'word', 'word', 'int'], [fd, bytes, size, flags])
}

/** Address of a buffer's first byte. The caller ensures that the memory does not move (see `Arena`). */
export function addressOf(buffer: Buffer): number {
  return binding().addressOf(buffer)
}
