import { SOCK_CLOEXEC, SOCK_NONBLOCK } from './abi.ts'
import { lazyArena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN, ECONNABORTED, EINTR, EPROTO } from './errno.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { ACCEPT_DONTWAIT, OPCODES } from './ring-abi.ts'
import { RING_ENTRIES, type Ring } from './ring.ts'
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
  /** As accept4 filled it in, without another system call; turned into text when it is read. */
  peer: SocketAddress
}

export interface AcceptedBatch {
  /** In the order of the kernel's queue; the caller owns all of them. */
  connections: AcceptedConnection[]
  /**
   * Why it ended before `max` and before the queue was empty. EMFILE and ENFILE say that a connection still waits and that a
   * descriptor must be freed first.
   */
  error?: NativeError
}

const FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC

/**
 * Takes one connection from a listening socket that is nonblocking, or returns undefined when none waits. A
 * connection that died in the queue (ECONNABORTED, EPROTO) is skipped. Throws NativeError for the rest, as in
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
    if (!isPassing(errno)) throw new NativeError('accept4', errno, { fd: listenFd })
  }
}

/**
 * Takes up to `max` connections that wait: many with one system call where there is io_uring, one by one elsewhere. As
 * `acceptOne` in all else.
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
const ROOM = SOCKADDR + SOCKADDR_CAPACITY
const rooms = lazyArena(RING_ENTRIES * ROOM)

/** How many came the last time: as many are likely to wait now. One that finds nobody costs a fraction of one that does. */
let usual = 1

function acceptTogether(ring: Ring, listenFd: BorrowedFd, max: number): AcceptedBatch {
  const connections: AcceptedConnection[] = []
  const arena = rooms()
  let tries = Math.min(max, usual + 1, RING_ENTRIES)
  let error: NativeError | undefined
  let empty = false
  while (!empty && error === undefined && connections.length < max) {
    for (let index = 0; index < tries; index++) {
      const at = index * ROOM
      resetAddress(arena, at)
      ring.add({
        opcode: OPCODES.accept,
        fd: listenFd,
        ioprio: ACCEPT_DONTWAIT,
        address: arena.address + at + SOCKADDR,
        offset: arena.address + at + SOCKADDR_LENGTH,
        operationFlags: FLAGS,
      })
    }
    error = ring.run()
    // Each of them is looked at, whatever the one before says: a later one may have a connection all the same.
    for (let index = 0; index < tries; index++) {
      const result = ring.result(index)
      if (result >= 0) connections.push({ fd: result, peer: parseAddress(arena, index * ROOM) })
      else if (result === -EAGAIN) empty = true
      else if (!isPassing(-result)) error ??= new NativeError('accept4', -result, { fd: listenFd })
    }
    tries = Math.min(max - connections.length, tries * 2, RING_ENTRIES)
  }
  usual = Math.max(1, connections.length)
  return error === undefined ? { connections } : { connections, error }
}

/** Says nothing of the next connection. */
function isPassing(errno: number): boolean {
  return errno === EINTR || errno === ECONNABORTED || errno === EPROTO
}
