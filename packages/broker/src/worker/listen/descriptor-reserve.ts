import { readFileSync } from 'node:fs'
import { dup, NativeError } from '@baton/native-sendmsg'

/** Descriptors that clients may not take: registrations (5 each), relays, the admin server, files. */
const RESERVE = 64

/** So many may be accepted before anybody looks how full the table is; as many again are kept for them. */
const BATCH = 64

/** A table smaller than this is shared half and half, and looked at after each client. */
const SMALL = 8 * BATCH

/**
 * Whether the process is so short of descriptors that a client more would cost a backend its registration, and with it
 * everybody who waits for that backend. The kernel gives out the lowest number that is free (open(2)), so the number of the
 * newest descriptor tells how full the table is.
 */
export class DescriptorReserve {
  readonly #highest: number
  #suspected = false
  /** How many clients may be accepted at once. */
  readonly batch: number

  constructor(limit: number = softLimit()) {
    this.batch = limit < SMALL ? 1 : BATCH
    this.#highest = limit - (limit < SMALL ? Math.min(RESERVE, limit / 2) : RESERVE + BATCH)
  }

  /** Somebody has got a descriptor of the reserve, and nobody has asked the kernel since. */
  get isSuspected(): boolean {
    return this.#suspected
  }

  /** `fd`: one that was just opened. */
  isReached(fd: number): boolean {
    if (fd < this.#highest) return false
    this.#suspected = true
    return true
  }

  /** Asks the kernel for a number, and gives it back. */
  isReachedNow(fd: number): boolean {
    this.#suspected = true
    try {
      const probe = dup(fd)
      this.#suspected = this.isReached(probe.fd)
      probe.close()
      return this.#suspected
    } catch (error) {
      if (error instanceof NativeError) return true
      throw error
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
