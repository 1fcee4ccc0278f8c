import { isMainThread } from 'node:worker_threads'
import {
  AF_UNIX,
  EPOLL_CTL_ADD,
  EPOLL_EVENT_SIZE,
  O_CLOEXEC,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
} from './abi.ts'
import { Arena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { POLLIN } from './inspect.ts'
import { lastErrno, libc, supported } from './libc.ts'
import { ACCEPT_DONTWAIT, HARDLINK, OPCODES, SKIP_SUCCESS } from './ring-abi.ts'
import { Ring } from './ring.ts'
import { createSocket, socketpair } from './sockets.ts'
import { recv } from './stream.ts'
import { EPOLLOUT } from './watch.ts'

export interface MainRing {
  readonly ring: Ring
  /** It can do an epoll_wait(2): Linux 6.15. */
  readonly waitsForEvents: boolean
}

/** Why there is none, and whether that may change. */
interface NoRing {
  readonly reason: string
  readonly passing: boolean
}

/** Of descriptors or memory there may be more later; anything else is what this kernel or its configuration says. */
const PASSING = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'ENOBUFS'])
/** Milliseconds from one attempt to the next, and how many are made: each may leave its memory behind (`opened`). */
const RETRY = 1000
const MAX_ATTEMPTS = 10

let found: MainRing | NoRing | undefined
let attempts = 0
let nextAttempt = 0
/** Never let go of: the kernel takes a closed ring apart later, and must not write into memory that is somebody else's by then. */
const opened: Ring[] = []

/**
 * The ring of the main thread, or undefined where none is to be had: Linux before 6.10, `kernel.io_uring_disabled`, a container
 * whose seccomp profile forbids it, `BATON_IO_URING=off`, or a Worker. Everything that uses it has another way. Where it failed
 * for want of descriptors or memory, it is tried again when somebody asks later.
 *
 * A Worker has none because its heap, with the ring's memory in it, ends before the ring does: the kernel's last completions
 * were written into memory that had been freed (seen as a SIGSEGV of the whole process).
 */
export function mainRing(): MainRing | undefined {
  if (found === undefined || isToBeTriedAgain(found)) found = open()
  return 'ring' in found ? found : undefined
}

/** Why `mainRing` gives none. */
export function whyNoRing(): string | undefined {
  return found !== undefined && 'reason' in found ? found.reason : undefined
}

function isToBeTriedAgain(last: MainRing | NoRing): boolean {
  return 'reason' in last && last.passing && attempts < MAX_ATTEMPTS && performance.now() >= nextAttempt
}

function open(): MainRing | NoRing {
  if (!supported) return { reason: 'unsupported platform', passing: false }
  if (!isMainThread) return { reason: 'this is a Worker', passing: false }
  if (process.env['BATON_IO_URING'] === 'off') return { reason: 'BATON_IO_URING=off', passing: false }
  attempts += 1
  nextAttempt = performance.now() + RETRY
  let ring: Ring | undefined
  let reason = 'this kernel’s io_uring is too old'
  let passing = false
  try {
    ring = new Ring()
    opened.push(ring)
    if (acceptsWithoutWaiting(ring) && ringsTheBell(ring)) return { ring, waitsForEvents: bringsEvents(ring) }
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    reason = error.message
    passing = PASSING.has(error.code)
  }
  ring?.close()
  return { reason, passing }
}

/** Kernels before 6.10 answer EINVAL. */
function acceptsWithoutWaiting(ring: Ring): boolean {
  const socket = createSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  try {
    // A family alone: the kernel makes a name up (unix(7), autobind).
    const address = new Arena(8)
    address.buffer.writeUInt16LE(AF_UNIX)
    if (libc.bind(socket.fd, address.address, 2) === -1) throw new NativeError('bind', lastErrno())
    if (libc.listen(socket.fd, 1) === -1) throw new NativeError('listen', lastErrno())
    const index = ring.add({ opcode: OPCODES.accept, fd: socket.fd, ioprio: ACCEPT_DONTWAIT })
    ring.run()
    return ring.result(index) === -EAGAIN
  } finally {
    socket.close()
  }
}

function ringsTheBell(ring: Ring): boolean {
  const [ready, far] = socketpair('stream')
  try {
    const byte = new Arena(8)
    const send = { opcode: OPCODES.send, address: byte.address, length: 1, flags: SKIP_SUCCESS }
    ring.leave([{ ...send, fd: far.fd }])
    const poll = { opcode: OPCODES.pollAdd, fd: ready.fd, operationFlags: POLLIN }
    ring.leave([
      { ...poll, flags: HARDLINK | SKIP_SUCCESS },
      { ...send, fd: far.fd },
    ])
    return recv(ready.fd, 8).length === 2
  } finally {
    ready.close()
    far.close()
  }
}

/** Kernels before 6.15 answer EINVAL. */
function bringsEvents(ring: Ring): boolean {
  const epoll = libc.epoll_create1(O_CLOEXEC)
  if (epoll === -1) throw new NativeError('epoll_create1', lastErrno())
  const set = new OwnedFd(epoll)
  const [watched, far] = socketpair('stream')
  try {
    const event = new Arena(EPOLL_EVENT_SIZE)
    event.words[0] = EPOLLOUT
    if (libc.epoll_ctl(epoll, EPOLL_CTL_ADD, watched.fd, event.address) === -1) {
      throw new NativeError('epoll_ctl', lastErrno())
    }
    const index = ring.add({ opcode: OPCODES.epollWait, fd: epoll, address: event.address, length: 1 })
    ring.run()
    return ring.result(index) === 1
  } finally {
    set.close()
    watched.close()
    far.close()
  }
}
