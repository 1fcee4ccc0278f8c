import { createRequire } from 'node:module'
import { endianness } from 'node:os'
import type * as Ffi from 'ffi-rs'
import { SYS_KCMP, SYS_PIDFD_OPEN } from './abi.ts'
import { UnsupportedPlatformError } from './errors.ts'
import { SYS_IO_URING_ENTER, SYS_IO_URING_SETUP } from './ring-abi.ts'

/**
 * The process's own C library, through ffi-rs.
 *
 * All arguments are numbers: descriptors, flags, and addresses of memory that an `Arena` owns. An address
 * is below 2^48 on both architectures (higher ones only on request), so a double represents it
 * exactly. Passing numbers in a call object that is built once costs half as much as `define` with Buffers
 * (3.9 us instead of 7.9 us for a recv).
 *
 * `fcntl`, `open` and `syscall` are variadic in C; on x64 and arm64 Linux, their integer arguments are passed
 * as in any other call.
 */
type Loaded = { ffi: typeof Ffi } | { reason: string; cause?: unknown }

const LIBRARY = 'baton:libc'
const loaded = load()

/** True if descriptors can be passed: on Linux x64 or arm64, if ffi-rs loads. */
export const supported: boolean = 'ffi' in loaded

function load(): Loaded {
  if (process.platform !== 'linux') return { reason: `this is ${process.platform}` }
  if (!['x64', 'arm64'].includes(process.arch) || endianness() !== 'LE') {
    return { reason: `this is ${process.arch}` }
  }
  try {
    const ffi: typeof Ffi = createRequire(import.meta.url)('ffi-rs')
    // An empty path is dlopen(NULL): the running program, including its libc (glibc or musl).
    ffi.open({ library: LIBRARY, path: '' })
    return { ffi }
  } catch (cause) {
    // Node's permission model, or --no-addons.
    const disabled = (cause as NodeJS.ErrnoException).code === 'ERR_DLOPEN_DISABLED'
    const reason = 'native addons are disabled: start Node with --allow-addons beside --permission'
    return { reason: disabled ? reason : 'ffi-rs does not load', cause }
  }
}

function binding(): typeof Ffi {
  if ('ffi' in loaded) return loaded.ffi
  throw new UnsupportedPlatformError(loaded.reason, { cause: loaded.cause })
}

/** `word` is an address or a size; `string` is a C string. */
type Kind = 'int' | 'word' | 'string'
type Value = number | string

interface Call<E extends boolean> extends Ffi.FFIParams<Ffi.DataType.I32 | Ffi.DataType.I64, E> {
  paramsValue: Value[]
}

let errno = 0

/** errno of the last call below that returned -1. As in C, read it before the next call. */
export const lastErrno = (): number => errno

function describe<E extends boolean>(
  name: string,
  result: 'int' | 'word',
  kinds: readonly Kind[],
  fetchErrno: E,
): Call<E> {
  const { DataType } = binding()
  const types = { int: DataType.I32, word: DataType.I64, string: DataType.String }
  return {
    library: LIBRARY,
    funcName: name,
    retType: result === 'int' ? DataType.I32 : DataType.I64,
    paramsType: kinds.map((kind) => types[kind]),
    paramsValue: [],
    errno: fetchErrno,
    freeResultMemory: false,
  }
}

/** Binds a system call without libc wrapper, through `syscall(number, ...)`. */
function bindNumber(binder: typeof bind, number: number, ...kinds: Kind[]): (...values: Value[]) => number {
  const call = binder('syscall', 'word', 'word', ...kinds)
  return (...values) => call(number, ...values)
}

function bind(name: string, result: 'int' | 'word', ...kinds: Kind[]): (...values: Value[]) => number {
  let call: Call<true> | undefined
  return (...values) => {
    call ??= describe(name, result, kinds, true)
    call.paramsValue = values
    const outcome = binding().load<Call<true>['retType'], true>(call)
    if (outcome.value === -1) errno = outcome.errnoCode
    return outcome.value
  }
}

/**
 * Like `bind`, for functions called for every connection. Fetching errno costs a fifth of a call (an object, and the error text), so
 * only a failed call fetches it, by calling again. Only for functions whose failure has no effect; if the second call succeeds, its
 * result is returned.
 */
function bindRepeatable(
  name: string,
  result: 'int' | 'word',
  ...kinds: Kind[]
): (...values: Value[]) => number {
  let call: Call<false> | undefined
  const callAgain = bind(name, result, ...kinds)
  return (...values) => {
    call ??= describe(name, result, kinds, false)
    call.paramsValue = values
    const value = binding().load<Call<false>['retType'], false>(call)
    return value === -1 ? callAgain(...values) : value
  }
}

/** Like `bind`, but a failure does not set `lastErrno()`. */
function bindSilent(name: string, result: 'int' | 'word', ...kinds: Kind[]): (...values: Value[]) => number {
  let call: Call<false> | undefined
  return (...values) => {
    call ??= describe(name, result, kinds, false)
    call.paramsValue = values
    return binding().load<Call<false>['retType'], false>(call)
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
  /** For every connection. Failure does not matter, so errno is not fetched. */
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

async function onThread(name: string, kinds: readonly Kind[], values: Value[]): Promise<number> {
  const call = describe(name, 'int', kinds, true)
  call.paramsValue = values
  const outcome = await binding().load<Call<true>['retType'], true, true>({ ...call, runInNewThread: true })
  return outcome.value === -1 ? -outcome.errnoCode : outcome.value
}

/** Address of a buffer's first byte. The caller ensures that the memory does not move (see `Arena`). */
export function addressOf(buffer: Buffer): number {
  const { DataType } = binding()
  return binding().load({
    library: LIBRARY,
    // memmove(3) returns its first argument; 0 bytes are moved.
    funcName: 'memmove',
    retType: DataType.I64,
    paramsType: [DataType.U8Array, DataType.U8Array, DataType.I64],
    paramsValue: [buffer, buffer, 0],
  })
}
