import { Arena } from './arena.ts'
import { OwnedFd, type BorrowedFd } from './descriptors.ts'
import { ECANCELED, EINTR } from './errno.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import {
  CQE,
  CQE_SIZE,
  ENTER_GETEVENTS,
  type Opcode,
  PARAMS,
  PARAMS_SIZE,
  RING_OFFSETS,
  SETUP_COOP_TASKRUN,
  SETUP_NO_MMAP,
  SETUP_NO_SQARRAY,
  SETUP_SINGLE_ISSUER,
  SETUP_SUBMIT_ALL,
  SQE,
  SQE_SIZE,
} from './ring-abi.ts'

/** Operations that one `submit` carries at most. */
export const RING_ENTRIES = 128
const PAGE = 4096
const SQE_BYTES = RING_ENTRIES * SQE_SIZE
/** Heads, tails and masks, then twice as many completions as submissions; with room to spare. */
const RING_BYTES = 2 * PAGE

/** The result of a chain that has not begun to ring; no errno is as low. */
export const PENDING = -0x8000_0000

/** What an operation needs; fields as in `struct io_uring_sqe` (io_uring_enter(2)). */
export interface Submission {
  readonly opcode: Opcode
  readonly fd: BorrowedFd
  /** IOSQE_* */
  readonly flags?: number
  readonly ioprio?: number
  /** `off` or `addr2`: a number, or an address. */
  readonly offset?: number
  readonly address?: number
  readonly length?: number
  /** `accept_flags`, `msg_flags`, `poll32_events`. */
  readonly operationFlags?: number
  /** For setsockopt: `optlen`, and the address of the value. */
  readonly optionLength?: number
  readonly optionValue?: number
}

/**
 * An io_uring(7) whose rings lie in memory of ours, so that JavaScript fills in submissions and reads completions without
 * a call; one io_uring_enter(2) then does what would be a call for each of them.
 *
 * It is used for two things only. A `batch` is of operations that end at once: all their results are there when `run`
 * returns, and nothing is in flight afterwards. A `chain` is left behind in the kernel, and tells its end by what it does
 * (the doorbell of `ring-waiter.ts`), not by a completion.
 *
 * The kernel writes into this object's memory for as long as the ring lives, and that is longer than its descriptor: whoever
 * makes one keeps it until the process ends (`main-ring.ts`).
 */
export class Ring {
  readonly #fd: OwnedFd
  readonly #arena: Arena
  readonly #words: Int32Array
  readonly #sqes: number
  /** Word indices. */
  readonly #sqTail: number
  readonly #cqHead: number
  readonly #cqTail: number
  readonly #cqes: number
  readonly #sqMask: number
  readonly #cqMask: number
  #tail = 0
  #queued = 0
  #batch = 0
  /** Those of a batch, then those of chains. */
  readonly #results = new Int32Array(2 * RING_ENTRIES)
  #reserved = 0
  readonly #free: number[] = []

  /** @throws {NativeError} what io_uring_setup(2) says: ENOSYS, EPERM (seccomp, sysctl), EINVAL (an old kernel) */
  constructor() {
    // Pages of their own, since the kernel maps whole ones.
    this.#arena = new Arena(PAGE + RING_BYTES + SQE_BYTES)
    const { buffer, address } = this.#arena
    const rings = PAGE - (address % PAGE)
    const sqes = rings + RING_BYTES
    const parameters = new Arena(PARAMS_SIZE)
    parameters.words[PARAMS.flags / 4] =
      SETUP_NO_MMAP | SETUP_NO_SQARRAY | SETUP_SINGLE_ISSUER | SETUP_COOP_TASKRUN | SETUP_SUBMIT_ALL
    parameters.buffer.writeBigUInt64LE(BigInt(address + rings), PARAMS.completionMemory)
    parameters.buffer.writeBigUInt64LE(BigInt(address + sqes), PARAMS.submissionMemory)
    const fd = libc.io_uring_setup(RING_ENTRIES, parameters.address)
    if (fd === -1) throw new NativeError('io_uring_setup', lastErrno())
    // CLOEXEC from birth (io_uring_setup(2)).
    this.#fd = new OwnedFd(fd)

    this.#words = new Int32Array(buffer.buffer, buffer.byteOffset, buffer.length / 4)
    const at = (base: number, field: number) => (rings + parameters.buffer.readUInt32LE(base + field)) / 4
    this.#sqes = sqes / 4
    this.#sqTail = at(PARAMS.submission, RING_OFFSETS.tail)
    this.#sqMask = this.#words[at(PARAMS.submission, RING_OFFSETS.mask)] as number
    this.#cqHead = at(PARAMS.completion, RING_OFFSETS.head)
    this.#cqTail = at(PARAMS.completion, RING_OFFSETS.tail)
    this.#cqMask = this.#words[at(PARAMS.completion, RING_OFFSETS.mask)] as number
    this.#cqes = at(PARAMS.completion, RING_OFFSETS.completions)
  }

  /** Adds an operation to the next batch and returns the index of its result. At most `RING_ENTRIES` may be queued. */
  add(submission: Submission): number {
    const index = this.#batch++
    this.#write(submission, index + 1)
    return index
  }

  /**
   * Does what was added; afterwards `result` tells of each.
   *
   * @returns why the kernel has not begun all of it (io_uring_enter(2), out of memory); the results of the rest are -ECANCELED
   */
  run(): NativeError | undefined {
    this.#results.fill(-ECANCELED, 0, this.#batch)
    const { untaken, error } = this.#submit()
    let left = this.#batch - untaken
    this.#batch = 0
    left -= this.#reap()
    // Nearly every operation of a batch ends within the call above; what follows one that failed may end later.
    for (; left > 0; left -= this.#reap()) this.#wait(left)
    return error
  }

  /** As a system call's, with -errno for a failure. */
  result(index: number): number {
    return this.#results[index] as number
  }

  /** The index of the results of one user's chains, until it is given back. */
  reserve(): number {
    const index = this.#free.pop() ?? RING_ENTRIES + this.#reserved++
    if (index >= this.#results.length)
      throw new BatonNativeError('BATON_ERR_LIMIT_EXCEEDED', `${RING_ENTRIES} chains`)
    return index
  }

  giveBack(index: number): void {
    this.#free.push(index)
  }

  /** Looks for what has ended in the meantime: `result(index)` of a chain's first operation is true afterwards. */
  look(): void {
    this.#reap()
  }

  /**
   * Leaves linked operations behind in the kernel. The first one's result will be at `index`, if that is given, and is `PENDING`
   * until then; of the others nobody hears, also when they fail.
   *
   * @throws {NativeError} io_uring_enter(2) refused it (ENOMEM, EAGAIN, EBUSY); the beginning of the chain may be out
   */
  leave(chain: readonly Submission[], index = -1): void {
    if (index !== -1) this.#results[index] = PENDING
    for (const [at, submission] of chain.entries()) this.#write(submission, at === 0 ? index + 1 : 0)
    const { error } = this.#submit()
    this.#reap()
    if (error !== undefined) throw error
  }

  /** For who found out that it does not work here. */
  close(): void {
    this.#fd.close()
  }

  #write(submission: Submission, key: number): void {
    const { opcode, fd, flags = 0, ioprio = 0, offset = 0, address = 0 } = submission
    const words = this.#words
    const at = this.#sqes + ((this.#tail + this.#queued) & this.#sqMask) * (SQE_SIZE / 4)
    this.#queued += 1
    words[at] = opcode | (flags << 8) | (ioprio << 16)
    words[at + SQE.fd] = fd
    words[at + SQE.offset] = offset
    words[at + SQE.offset + 1] = offset / 0x1_0000_0000
    words[at + SQE.address] = address
    words[at + SQE.address + 1] = address / 0x1_0000_0000
    words[at + SQE.length] = submission.length ?? 0
    words[at + SQE.operationFlags] = submission.operationFlags ?? 0
    words[at + SQE.key] = key
    words[at + SQE.key + 1] = 0
    words.fill(0, at + SQE.rest, at + SQE_SIZE / 4)
    const { optionLength, optionValue = 0 } = submission
    if (optionLength === undefined) return
    words[at + SQE.optionLength] = optionLength
    words[at + SQE.optionValue] = optionValue
    words[at + SQE.optionValue + 1] = optionValue / 0x1_0000_0000
  }

  /** How many the kernel has not begun, and why. */
  #submit(): { untaken: number; error: NativeError | undefined } {
    this.#tail = (this.#tail + this.#queued) | 0
    Atomics.store(this.#words, this.#sqTail, this.#tail)
    try {
      while (this.#queued > 0) this.#queued -= this.#enter(this.#queued)
      return { untaken: 0, error: undefined }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // What the kernel has not seen is taken back, so that it is not done behind somebody's back later.
      const untaken = this.#queued
      this.#tail = (this.#tail - untaken) | 0
      Atomics.store(this.#words, this.#sqTail, this.#tail)
      this.#queued = 0
      return { untaken, error }
    }
  }

  /** How many submissions the kernel has taken. */
  #enter(submissions: number): number {
    for (;;) {
      const taken = libc.io_uring_enter(this.#fd.fd, submissions, 0, 0)
      if (taken !== -1) return taken
      const errno = lastErrno()
      if (errno !== EINTR) throw new NativeError('io_uring_enter', errno, { fd: this.#fd.fd })
    }
  }

  /** For operations that have been taken and will end. */
  #wait(count: number): void {
    for (;;) {
      if (libc.io_uring_wait(this.#fd.fd, 0, count, ENTER_GETEVENTS, 0, 0) !== -1) return
      const errno = lastErrno()
      if (errno !== EINTR) throw new NativeError('io_uring_enter', errno, { fd: this.#fd.fd })
    }
  }

  /** Gives how many operations of the batch have ended. */
  #reap(): number {
    const words = this.#words
    const tail = Atomics.load(words, this.#cqTail)
    let head = words[this.#cqHead] as number
    let ended = 0
    for (; head !== tail; head = (head + 1) | 0) {
      const at = this.#cqes + (head & this.#cqMask) * (CQE_SIZE / 4)
      const key = words[at + CQE.key] as number
      if (key === 0) continue
      this.#results[key - 1] = words[at + CQE.result] as number
      if (key <= RING_ENTRIES) ended += 1
    }
    Atomics.store(words, this.#cqHead, head)
    return ended
  }
}
