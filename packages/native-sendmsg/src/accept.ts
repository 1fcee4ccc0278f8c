import { SOCK_CLOEXEC, SOCK_NONBLOCK } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNABORTED, EINTR, EPROTO } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { ACCEPT_DONTWAIT, OPCODES } from './ring-abi.ts'
import { RING_ENTRIES, type Ring, submission } from './ring.ts'
import {
  addressArena,
  parseAddress,
  resetAddress,
  SOCKADDR,
  SOCKADDR_CAPACITY,
  SOCKADDR_LENGTH,
  type SocketAddress,
} from './socket-address.ts'
import { mainRing } from './main-ring.ts'

export interface AcceptedConnection {
  /** Nonblocking, CLOEXEC; the caller owns it. */
  fd: number
  /** Filled in by accept4, without another system call; formatted as text when it is read. */
  peer: SocketAddress
}

export interface AcceptedBatch {
  /** In the order of the accept queue; the caller owns all of them. */
  connections: AcceptedConnection[]
  /**
   * Why accepting stopped before `max` and before the queue was empty. EMFILE and ENFILE: a connection is still queued, and a
   * descriptor must be freed first.
   */
  error?: NativeError
}

const FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC

/**
 * Accepts one connection from a nonblocking listening socket; undefined if the queue is empty. Skips
 * connections that failed in the queue (ECONNABORTED, EPROTO). Throws NativeError for other errors, as in
 * `AcceptedBatch.error`.
 */
export function acceptOne(listenFd: BorrowedFd): AcceptedConnection | undefined {
  const arena = addressArena()
  for (;;) {
    resetAddress(arena)
    const fd = libc.accept4(listenFd, arena.address + SOCKADDR, arena.address + SOCKADDR_LENGTH, FLAGS)
    if (fd !== -1) return { fd, peer: parseAddress(arena) }
    const errno = lastErrno()
    if (errno === EAGAIN) return undefined
    if (!isTransient(errno)) throw new NativeError('accept4', errno, { fd: listenFd })
  }
}

/**
 * Like `acceptOne`, for up to `max` queued connections. With io_uring, many are accepted in one system call; without it, one at
 * a time.
 */
export function acceptMany(listenFd: BorrowedFd, max: number): AcceptedBatch {
  const ring = mainRing()?.ring
  return ring === undefined ? acceptSingly(listenFd, max) : acceptTogether(ring, listenFd, max)
}

function acceptSingly(listenFd: BorrowedFd, max: number): AcceptedBatch {
  const connections: AcceptedConnection[] = []
  try {
    while (connections.length < max) {
      const connection = acceptOne(listenFd)
      if (connection === undefined) break
      connections.push(connection)
    }
    return { connections }
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    return { connections, error }
  }
}

/** Room for the address of each connection of a batch. */
const ADDRESS_SLOT = SOCKADDR + SOCKADDR_CAPACITY
const addressSlots = lazyArena(RING_ENTRIES * ADDRESS_SLOT)

/** Size of the last batch, as an estimate for the next one. An accept that finds nothing costs a fraction of a successful one. */
let lastCount = 1

/** Reused for all, because it is copied into the ring. */
const accept = submission({ opcode: OPCODES.accept, fd: -1, ioprio: ACCEPT_DONTWAIT, operationFlags: FLAGS })

function acceptTogether(ring: Ring, listenFd: BorrowedFd, max: number): AcceptedBatch {
  const connections: AcceptedConnection[] = []
  const arena = addressSlots()
  accept.fd = listenFd
  let tries = Math.min(max, lastCount + 1, RING_ENTRIES)
  let error: NativeError | undefined
  let empty = false
  while (!empty && error === undefined && connections.length < max) {
    for (let index = 0; index < tries; index++) {
      const at = index * ADDRESS_SLOT
      resetAddress(arena, at)
      accept.address = arena.address + at + SOCKADDR
      accept.offset = arena.address + at + SOCKADDR_LENGTH
      ring.add(accept)
    }
    error = ring.run()
    // Check every result, even after a failure: a later accept may have returned a connection.
    for (let index = 0; index < tries; index++) {
      const result = ring.result(index)
      if (result >= 0) connections.push({ fd: result, peer: parseAddress(arena, index * ADDRESS_SLOT) })
      else if (result === -EAGAIN) empty = true
      else if (!isTransient(-result)) error ??= new NativeError('accept4', -result, { fd: listenFd })
    }
    tries = Math.min(max - connections.length, tries * 2, RING_ENTRIES)
  }
  lastCount = Math.max(1, connections.length)
  return error === undefined ? { connections } : { connections, error }
}

/** Whether the error concerns only one connection, so that the next accept may succeed. */
function isTransient(errno: number): boolean {
  return errno === EINTR || errno === ECONNABORTED || errno === EPROTO
}
