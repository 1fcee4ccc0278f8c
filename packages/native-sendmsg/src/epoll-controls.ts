import { EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_DATA, EPOLL_EVENT_SIZE } from './abi.ts'
import { Arena } from './arena.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { OPCODES } from './ring-abi.ts'
import { isNotStarted, RING_ENTRIES, type Ring, submission, type Submission } from './ring.ts'
import type { Watch } from './watch.ts'

/** Writes a `struct epoll_event` whose data are the descriptor and the generation of its watch. */
export function writeEvent(buffer: Buffer, at: number, events: number, fd: number, generation: number): void {
  buffer.writeUInt32LE(events, at)
  buffer.writeInt32LE(fd, at + EPOLL_DATA)
  buffer.writeUInt32LE(generation, at + EPOLL_DATA + 4)
}

/** Changes many entries of an epoll set with one system call. */
export class EpollControls {
  readonly #ring: Ring
  readonly #epoll: number
  readonly #events = new Arena(RING_ENTRIES * EPOLL_EVENT_SIZE)
  /** Reused for all, because it is copied into the ring. */
  readonly #submission: Submission

  /** @param epoll the set; borrowed */
  constructor(ring: Ring, epoll: number) {
    this.#ring = ring
    this.#epoll = epoll
    this.#submission = submission({ opcode: OPCODES.epollControl, fd: epoll })
  }

  /** @returns the error of each, in the order of `watches` */
  run(
    operation: typeof EPOLL_CTL_ADD | typeof EPOLL_CTL_DEL,
    watches: readonly Watch[],
  ): (NativeError | undefined)[] {
    const errors: (NativeError | undefined)[] = []
    for (let at = 0; at < watches.length; at += RING_ENTRIES) {
      const batch = watches.slice(at, at + RING_ENTRIES)
      for (const [index, watch] of batch.entries()) {
        this.#fill(operation, watch, index)
        this.#ring.add(this.#submission)
      }
      this.#ring.run()
      for (const [index, watch] of batch.entries()) {
        const result = this.#ring.result(index)
        const errno = isNotStarted(result) ? this.#singly(operation, watch, index) : -result
        errors.push(errno > 0 ? new NativeError('epoll_ctl', errno, { fd: watch.fd }) : undefined)
      }
    }
    return errors
  }

  #fill(operation: number, watch: Watch, index: number): void {
    const change = this.#submission
    change.offset = watch.fd
    change.length = operation
    change.address = this.#events.address + index * EPOLL_EVENT_SIZE
    writeEvent(this.#events.buffer, index * EPOLL_EVENT_SIZE, watch.events, watch.fd, watch.generation)
  }

  /** @returns 0, or errno */
  #singly(operation: number, watch: Watch, index: number): number {
    const event = this.#events.address + index * EPOLL_EVENT_SIZE
    return libc.epoll_ctl(this.#epoll, operation, watch.fd, event) === -1 ? lastErrno() : 0
  }
}
