import { readFileSync } from 'node:fs'
import { dup, NativeError, type OwnedFd } from '@baton/native-sendmsg'

/** Descriptors that clients may not take: registrations (5 each), relays, the admin server, files. */
const RESERVE = 64

/** Maximum accepts before the table is checked again; as many more are kept for them. */
const BATCH = 64

/** A table smaller than this is shared half and half, and checked after each client. */
const SMALL = 8 * BATCH

/**
 * Whether the process is so short of descriptors that another client would cost a backend its registration, and with it the
 * clients that wait for that backend. The kernel gives out the lowest free number (open(2)), so the number of the newest
 * descriptor tells how full the table is, unless a low number has just been freed: a single gap far below says nothing of the
 * rest, which is why as many numbers are tried as clients are to be taken.
 */
export class DescriptorReserve {
  readonly #highest: number
  readonly #ceiling: number
  #suspected = false
  /** Maximum clients to accept at once. */
  readonly batch: number

  /** @param limit descriptors that the process may have open */
  constructor(limit: number = softLimit()) {
    const small = limit < SMALL
    const kept = small ? Math.min(RESERVE, limit / 2) : RESERVE
    this.batch = small ? 1 : BATCH
    this.#highest = limit - kept - (small ? 0 : BATCH)
    this.#ceiling = limit - kept / 2
  }

  /** A descriptor of the reserve has been given out, and the table has not been checked since. */
  get isSuspected(): boolean {
    return this.#suspected
  }

  /** `fd`: one that was just opened. */
  isReached(fd: number): boolean {
    if (fd < this.#highest) return false
    this.#suspected = true
    return true
  }

  /** Asks the kernel for one number, and gives it back. */
  isReachedNow(fd: number): boolean {
    return this.#freeNumbers(fd, 1, this.#highest) === 0
  }

  /**
   * How many of `most` clients may be accepted now, as far as the kernel's next numbers tell. Suspicion ends when all may.
   *
   * @param fd any open descriptor
   */
  roomFor(fd: number, most: number): number {
    const room = this.#freeNumbers(fd, most, this.#highest)
    this.#suspected = room < most
    return room
  }

  /**
   * Whether `count` descriptors that come together fit. The last of them may use half of the reserve: they cannot come one at a
   * time, and those that wait longest are among them.
   *
   * @param fd any open descriptor
   */
  fits(fd: number, count: number): boolean {
    return !this.isReachedNow(fd) && this.#freeNumbers(fd, count, this.#ceiling) === count
  }

  /** Free numbers below `end`: the lowest ones, `most` at most. */
  #freeNumbers(fd: number, most: number, end: number): number {
    const probes: OwnedFd[] = []
    try {
      while (probes.length < most) {
        const probe = dup(fd)
        probes.push(probe)
        if (probe.fd >= end) return probes.length - 1
      }
      return most
    } catch (error) {
      if (error instanceof NativeError) return probes.length
      throw error
    } finally {
      for (const probe of probes) probe.close()
    }
  }
}

let shared: DescriptorReserve | undefined

/** The one of this process: what a listener takes of it, the others must know. */
export function sharedReserve(): DescriptorReserve {
  return (shared ??= new DescriptorReserve())
}

/** RLIMIT_NOFILE of this process, which Node raises to the hard limit at start (proc(5), limits). */
function softLimit(): number {
  const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return line === null ? Number.POSITIVE_INFINITY : Number(line[1])
}
