import { Arena } from './arena.ts'
import { OwnedFd, type BorrowedFd } from './descriptors.ts'
import { ECANCELED, EINTR, EINVAL } from './errno.ts'
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

/** Maximum operations per submit. */
export const RING_ENTRIES = 128
const PAGE = 4096
const SQE_BYTES = RING_ENTRIES * SQE_SIZE
/** Heads, tails and masks, and twice as many completions as submissions (4 KiB). */
const RING_BYTES = 2 * PAGE

/** Result of a chain whose first operation has not completed. Lower than any -errno. */
export const PENDING = -0x8000_0000

/**
 * Whether an operation of a batch must be repeated as a system call, which tells what is wrong: the kernel had no memory for it, or does not
 * have this operation (EINVAL).
 */
export function isNotStarted(result: number): boolean {
  return result === -ECANCELED || result === -EINVAL
}

/** An operation; fields as in `struct io_uring_sqe` (io_uring_enter(2)). */
export interface Submission {
  readonly opcode: Opcode
  fd: BorrowedFd
  /** IOSQE_* */
  flags: number
  ioprio: number
  /** `off` or `addr2`: a number, or an address. */
  offset: number
  address: number
  length: number
  /** `accept_flags`, `msg_flags`, `poll32_events`. */
  operationFlags: number
  /** For setsockopt, otherwise 0: `optlen`, and the address of the value. */
  optionLength: number
  optionValue: number
}

/**
 * An operation, with 0 for what is not given. It is copied into the ring, so one object may be changed and submitted many times. All have
 * the same fields in the same order, since one function reads them: with ten kinds of objects each of its reads searched for the field.
 */
export function submission(
  fields: Pick<Submission, 'opcode' | 'fd'> & Partial<Omit<Submission, 'opcode' | 'fd'>>,
): Submission {
  return {
    opcode: fields.opcode,
    fd: fields.fd,
    flags: fields.flags ?? 0,
    ioprio: fields.ioprio ?? 0,
    offset: fields.offset ?? 0,
    address: fields.address ?? 0,
    length: fields.length ?? 0,
    operationFlags: fields.operationFlags ?? 0,
    optionLength: fields.optionLength ?? 0,
    optionValue: fields.optionValue ?? 0,
  }
}

/**
 * An io_uring(7) whose rings are in our own memory, so that JavaScript writes submissions and reads completions without
 * a call; one io_uring_enter(2) then replaces a call for each operation.
 *
 * It has two uses. A *batch* consists of operations that complete immediately: all results are available when `run`
 * returns, and nothing is in flight afterwards. A *chain* stays in the kernel, and signals its completion by its effect
 * (the doorbell of `ring-waiter.ts`), not by a completion entry.
 *
 * The kernel writes into this object's memory for as long as the ring exists, which is longer than its descriptor: the creator
 * must keep the object until the process ends (`main-ring.ts`).
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
  /** Results of the batch, then of chains. */
  readonly #results = new Int32Array(2 * RING_ENTRIES)
  #reserved = 0
  readonly #free: number[] = []

  /** @throws {NativeError} io_uring_setup(2): ENOSYS, EPERM (seccomp, sysctl), EINVAL (an old kernel) */
  constructor() {
    // Page-aligned, because the kernel maps whole pages.
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

  /** Adds an operation to the next batch; returns the index of its result. At most `RING_ENTRIES` per batch. */
  add(operation: Submission): number {
    const index = this.#batch++
    this.#write(operation, index + 1)
    return index
  }

  /**
   * Runs the batch; afterwards, `result` gives the result of each operation.
   *
   * @returns why the kernel did not start all operations (io_uring_enter(2), out of memory); those not started result in -ECANCELED
   */
  run(): NativeError | undefined {
    this.#results.fill(-ECANCELED, 0, this.#batch)
    const { untaken, error } = this.#submit()
    let left = this.#batch - untaken
    this.#batch = 0
    left -= this.#reap()
    // Nearly all operations complete during the submit; one that is linked to a failed one may complete later.
    for (; left > 0; left -= this.#reap()) this.#wait(left)
    return error
  }

  /** The result of the system call, or -errno. */
  result(index: number): number {
    return this.#results[index] as number
  }

  /** Reserves a result index for the chains of one caller, until `giveBack`. */
  reserve(): number {
    const index = this.#free.pop() ?? RING_ENTRIES + this.#reserved++
    if (index >= this.#results.length)
      throw new BatonNativeError('BATON_ERR_LIMIT_EXCEEDED', `${RING_ENTRIES} chains`)
    return index
  }

  giveBack(index: number): void {
    this.#free.push(index)
  }

  /** Reads new completions, so that `result(index)` of a chain is up to date. */
  poll(): void {
    this.#reap()
  }

  /**
   * Submits linked operations without waiting for them. `index`, if given, is where the result of the first one will be; it is
   * `PENDING` until then. Results of the others are not reported, even if they fail.
   *
   * @throws {NativeError} io_uring_enter(2) refused the chain (ENOMEM, EAGAIN, EBUSY); its first operations may have been submitted
   */
  submitChain(chain: readonly Submission[], index = -1): void {
    if (index !== -1) this.#results[index] = PENDING
    for (const [at, operation] of chain.entries()) this.#write(operation, at === 0 ? index + 1 : 0)
    const { error } = this.#submit()
    this.#reap()
    if (error !== undefined) throw error
  }

  /** Only for a ring that turned out not to work on this kernel. */
  close(): void {
    this.#fd.close()
  }

  #write(operation: Submission, key: number): void {
    const { opcode, fd, flags, ioprio, offset, address, optionLength, optionValue } = operation
    const words = this.#words
    const at = this.#sqes + ((this.#tail + this.#queued) & this.#sqMask) * (SQE_SIZE / 4)
    this.#queued += 1
    words[at] = opcode | (flags << 8) | (ioprio << 16)
    words[at + SQE.fd] = fd
    words[at + SQE.offset] = offset
    words[at + SQE.offset + 1] = offset / 0x1_0000_0000
    words[at + SQE.address] = address
    words[at + SQE.address + 1] = address / 0x1_0000_0000
    words[at + SQE.length] = operation.length
    words[at + SQE.operationFlags] = operation.operationFlags
    words[at + SQE.key] = key
    words[at + SQE.key + 1] = 0
    words.fill(0, at + SQE.rest, at + SQE_SIZE / 4)
    if (optionLength === 0) return
    words[at + SQE.optionLength] = optionLength
    words[at + SQE.optionValue] = optionValue
    words[at + SQE.optionValue + 1] = optionValue / 0x1_0000_0000
  }

  /** @returns how many operations the kernel did not start, and why */
  #submit(): { untaken: number; error: NativeError | undefined } {
    this.#tail = (this.#tail + this.#queued) | 0
    Atomics.store(this.#words, this.#sqTail, this.#tail)
    try {
      while (this.#queued > 0) this.#queued -= this.#enter(this.#queued)
      return { untaken: 0, error: undefined }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      // Take back what the kernel has not consumed, so that it is not executed by a later submit.
      const untaken = this.#queued
      this.#tail = (this.#tail - untaken) | 0
      Atomics.store(this.#words, this.#sqTail, this.#tail)
      this.#queued = 0
      return { untaken, error }
    }
  }

  /** @returns how many submissions the kernel has consumed */
  #enter(submissions: number): number {
    for (;;) {
      const taken = libc.io_uring_enter(this.#fd.fd, submissions, 0, 0)
      if (taken !== -1) return taken
      const errno = lastErrno()
      if (errno !== EINTR) throw new NativeError('io_uring_enter', errno, { fd: this.#fd.fd })
    }
  }

  /** Waits for `count` completions. */
  #wait(count: number): void {
    for (;;) {
      if (libc.io_uring_wait(this.#fd.fd, 0, count, ENTER_GETEVENTS, 0, 0) !== -1) return
      const errno = lastErrno()
      if (errno !== EINTR) throw new NativeError('io_uring_enter', errno, { fd: this.#fd.fd })
    }
  }

  /** Reads completions; returns how many belong to the batch. */
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
