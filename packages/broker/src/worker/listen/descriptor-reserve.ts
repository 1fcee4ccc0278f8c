import { readFileSync } from 'node:fs'
import { dup, NativeError, type OwnedFd } from '@baton/native-sendmsg'

/** Descriptors that clients may not use up, kept for registrations (5 each), relays, the admin server and files. */
const RESERVE = 64

/** Maximum accepts before the table is checked again. As many more descriptors are kept free, for the batch. */
const BATCH = 64

/** Part of the table that idle connections may use too. Full of them, it would stop the listeners for the rest of their keep-alive time. */
const IDLE_SHARE = 0.75

/** In a table smaller than this the reserve is at most half, and the table is checked after each client. */
const SMALL = 8 * BATCH

/**
 * Detects when accepting another client could leave too few descriptors for a backend to register, on which held clients may
 * depend. The kernel assigns the lowest free number (open(2)), so the number of the newest descriptor tells how full the table is,
 * unless a low number has just been freed. One gap says nothing about the rest, so `roomFor` tries as many numbers as clients are
 * to be accepted.
 */
export class DescriptorReserve {
  readonly #highest: number
  readonly #ceiling: number
  readonly #shared: number
  #suspected = false
  /** Maximum clients to accept before the next check. */
  readonly batch: number

  /** @param limit descriptors that the process may have open */
  constructor(limit: number = softLimit()) {
    const small = limit < SMALL
    const kept = small ? Math.min(RESERVE, limit / 2) : RESERVE
    this.batch = small ? 1 : BATCH
    this.#highest = limit - kept - (small ? 0 : BATCH)
    this.#ceiling = limit - kept / 2
    this.#shared = small ? this.#highest : Math.floor(limit * IDLE_SHARE)
  }

  /** A client has got a descriptor of the reserve, and `roomFor` has not found enough room since. */
  get isSuspected(): boolean {
    return this.#suspected
  }

  /** @param fd a descriptor that was just opened */
  isReached(fd: number): boolean {
    if (fd < this.#highest) return false
    this.#suspected = true
    return true
  }

  /** Whether an idle connection with this descriptor, just opened, would leave too little of the table to clients that have a request. */
  isForClients(fd: number): boolean {
    return fd >= this.#shared
  }

  /** Checks now, by duplicating `fd` and closing the duplicate. */
  isReachedNow(fd: number): boolean {
    return this.#freeNumbers(fd, 1, this.#highest) === 0
  }

  /**
   * How many of `max` clients may be accepted now, judging by the next free numbers. If all may, `isSuspected` ends.
   *
   * @param fd any open descriptor
   */
  roomFor(fd: number, max: number): number {
    const room = this.#freeNumbers(fd, max, this.#highest)
    this.#suspected = room < max
    return room
  }

  /**
   * Whether `count` descriptors that arrive in one message fit. They may use half of the reserve: they cannot be received one at a
   * time, and the clients held longest are among them.
   *
   * @param fd any open descriptor
   */
  fits(fd: number, count: number): boolean {
    return !this.isReachedNow(fd) && this.#freeNumbers(fd, count, this.#ceiling) === count
  }

  /** Number of free descriptors below `end`, at most `max`. */
  #freeNumbers(fd: number, max: number, end: number): number {
    const probes: OwnedFd[] = []
    try {
      while (probes.length < max) {
        const probe = dup(fd)
        probes.push(probe)
        if (probe.fd >= end) return probes.length - 1
      }
      return max
    } catch (error) {
      if (error instanceof NativeError) return probes.length
      throw error
    } finally {
      for (const probe of probes) probe.close()
    }
  }
}

let shared: DescriptorReserve | undefined

/** The process's single reserve: all listeners draw on the same descriptors. */
export function sharedReserve(): DescriptorReserve {
  return (shared ??= new DescriptorReserve())
}

/** RLIMIT_NOFILE of this process, which Node raises to the hard limit at start-up (proc(5), limits). */
function softLimit(): number {
  const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return line === null ? Number.POSITIVE_INFINITY : Number(line[1])
}
