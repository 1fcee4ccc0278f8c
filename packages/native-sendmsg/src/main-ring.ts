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
import { Ring, submission } from './ring.ts'
import { createSocket, socketpair } from './sockets.ts'
import { recv } from './stream.ts'
import { EPOLLOUT } from './watch.ts'

export interface MainRing {
  readonly ring: Ring
  /** Whether it supports IORING_OP_EPOLL_WAIT (Linux 6.15). */
  readonly waitsForEvents: boolean
}

/** Why there is no ring, and whether that may change. */
interface NoRing {
  readonly reason: string
  readonly transient: boolean
}

/** Lack of descriptors or memory may pass; any other error is due to the kernel or its configuration. */
const TRANSIENT = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'ENOBUFS'])
/** Minimum time between attempts, in ms. */
const RETRY_MS = 1000
/** Limited because the memory of each attempt may be kept (`opened`). */
const MAX_ATTEMPTS = 10

let found: MainRing | NoRing | undefined
let attempts = 0
let nextAttempt = 0
/** Kept forever: the kernel destroys a closed ring asynchronously, and may still write to its memory. */
const opened: Ring[] = []

/**
 * The ring of the main thread, or undefined if it is unavailable: Linux before 6.10, `kernel.io_uring_disabled`, a container
 * whose seccomp profile forbids it, `BATON_IO_URING=off`, or a Worker. Callers have a fallback without it. If creation failed
 * for lack of descriptors or memory, a later call tries again.
 *
 * A Worker has no ring because its heap, which includes the ring's memory, is freed before the ring is destroyed: the kernel
 * wrote its last completions into freed memory (observed as a SIGSEGV of the whole process).
 */
export function mainRing(): MainRing | undefined {
  if (found === undefined || isDueForRetry(found)) found = open()
  return 'ring' in found ? found : undefined
}

/** Why `mainRing` returned undefined. */
export function whyNoRing(): string | undefined {
  return found !== undefined && 'reason' in found ? found.reason : undefined
}

function isDueForRetry(last: MainRing | NoRing): boolean {
  return 'reason' in last && last.transient && attempts < MAX_ATTEMPTS && performance.now() >= nextAttempt
}

function open(): MainRing | NoRing {
  if (!supported) return { reason: 'unsupported platform', transient: false }
  if (!isMainThread) return { reason: 'not the main thread', transient: false }
  if (process.env['BATON_IO_URING'] === 'off') return { reason: 'BATON_IO_URING=off', transient: false }
  attempts += 1
  nextAttempt = performance.now() + RETRY_MS
  let ring: Ring | undefined
  let reason = 'this kernel’s io_uring is too old'
  let transient = false
  try {
    ring = new Ring()
    opened.push(ring)
    if (acceptsWithoutWaiting(ring) && ringsDoorbell(ring))
      return { ring, waitsForEvents: waitReturnsEvents(ring) }
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    reason = error.message
    transient = TRANSIENT.has(error.code)
  }
  ring?.close()
  return { reason, transient }
}

/** Kernels before 6.10 fail with EINVAL. */
function acceptsWithoutWaiting(ring: Ring): boolean {
  const socket = createSocket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
  try {
    // Only a family: the kernel chooses an abstract name (unix(7), autobind).
    const address = new Arena(8)
    address.buffer.writeUInt16LE(AF_UNIX)
    if (libc.bind(socket.fd, address.address, 2) === -1) throw new NativeError('bind', lastErrno())
    if (libc.listen(socket.fd, 1) === -1) throw new NativeError('listen', lastErrno())
    const index = ring.add(submission({ opcode: OPCODES.accept, fd: socket.fd, ioprio: ACCEPT_DONTWAIT }))
    ring.run()
    return ring.result(index) === -EAGAIN
  } finally {
    socket.close()
  }
}

function ringsDoorbell(ring: Ring): boolean {
  const [ready, far] = socketpair('stream')
  try {
    const byte = new Arena(8)
    const { address } = byte
    const send = submission({ opcode: OPCODES.send, fd: far.fd, address, length: 1, flags: SKIP_SUCCESS })
    ring.submitChain([send])
    const flags = HARDLINK | SKIP_SUCCESS
    ring.submitChain([
      submission({ opcode: OPCODES.pollAdd, fd: ready.fd, operationFlags: POLLIN, flags }),
      send,
    ])
    return recv(ready.fd, 8).length === 2
  } finally {
    ready.close()
    far.close()
  }
}

/** Kernels before 6.15 fail with EINVAL. */
function waitReturnsEvents(ring: Ring): boolean {
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
    const index = ring.add(
      submission({ opcode: OPCODES.epollWait, fd: epoll, address: event.address, length: 1 }),
    )
    ring.run()
    return ring.result(index) === 1
  } finally {
    set.close()
    watched.close()
    far.close()
  }
}
