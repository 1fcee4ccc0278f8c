import { constants, fstatSync, openSync, readlinkSync, statSync } from 'node:fs'
import { dupOnto, EPOLLOUT, OwnedFd, sharedPoller, type Watch } from '@baton/native-sendmsg'
import { errnoOf } from '../config/error.ts'
import { LineBuffer, type Origin } from './line-buffer.ts'
import { openOutlet, type Outlet } from './outlet.ts'
import { Relief } from './relief.ts'

/** Maximum bytes pending for a slow reader, or a full or hung disk, before lines are dropped. */
const MAX_BUFFER_BYTES = 4 * 1024 * 1024

/** The part of the buffer that output of managed backends cannot use. */
const BUFFER_RESERVE = MAX_BUFFER_BYTES / 8

/** Above this size, in bytes, a source of many lines should pause. */
const CONGESTED_SIZE = MAX_BUFFER_BYTES / 8

/** An output that has accepted no byte for this time, in ms, is considered stalled and not waited for. */
const STALLED_AFTER_MS = 250

/** Delay before a failed write is retried, in ms. No event reports that a disk has room again. */
const RETRY_DELAY_MS = 250

/** Delay before retrying a descriptor that was reported writable but accepted no byte, in ms: another process was faster. */
const CONTENTION_DELAY_MS = 20

/** Interval at which `settled` checks for progress, in ms. */
const POLL_INTERVAL_MS = 5

const { O_APPEND, O_CREAT, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants

/** State that is carried over an exec in place. */
export interface SinkState {
  /** Pending lines, in base64. */
  readonly pending: string
  /** The written part of a line whose rest starts `pending`, in base64. Absent in the state of an older version. */
  readonly begun?: string
  /** Lines dropped since the process was started, and how many of them have not been reported in the log yet. */
  readonly dropped: number
  readonly unreported: number
  /** Path of the file that the descriptor referred to when the process was started; null if it was not a file. */
  readonly path: string | null
}

/** State of the output. */
type Progress =
  /** Nothing to write. */
  | { readonly kind: 'idle' }
  /** A write is due in a microtask, so that lines logged together are written together. */
  | { readonly kind: 'scheduled' }
  /** A pool thread is writing. */
  | { readonly kind: 'writing' }
  /** No room; the kernel reports when there is. */
  | { readonly kind: 'full'; readonly watch: Watch }
  /** The last write failed; the timer retries. */
  | { readonly kind: 'failing'; readonly timer: NodeJS.Timeout }

const IDLE: Progress = { kind: 'idle' }
const SCHEDULED: Progress = { kind: 'scheduled' }
const WRITING: Progress = { kind: 'writing' }

/**
 * Standard output or standard error of a process that must keep running even if they fail: nothing here throws, emits an error, or
 * blocks. Lines that the output does not accept are kept in a bounded buffer; lines beyond its limit are dropped and counted.
 */
export class Sink {
  /** Called when lines are accepted again after some were dropped, to report them. `cause`: an errno name; EAGAIN for a slow reader. */
  onResume: (lines: number, cause: string) => void = () => {}
  readonly #fd: number
  readonly #buffer = new LineBuffer({ limit: MAX_BUFFER_BYTES, reserve: BUFFER_RESERVE })
  #outlet: Outlet | undefined
  #progress: Progress = IDLE
  /** When the output last accepted bytes, or had nothing pending. */
  #lastProgressAt = performance.now()
  readonly #relief = new Relief()
  /** Bytes being written by a pool thread. */
  #inThread = 0
  /** The output was switched to another file while a thread was writing to the previous one. */
  #movedInWrite = false
  /** Errno name of the last failure: the cause of dropped lines. */
  #cause = 'EAGAIN'
  /** No new write is started: the program is about to be replaced. */
  #paused = false
  /** The process is about to exit: nothing here may keep it alive. */
  #closed = false
  #path: string | null

  /** @param fd borrowed; its flags are not changed */
  constructor(fd: number) {
    this.#fd = fd
    this.#path = pathOf(fd)
  }

  /** Lines dropped since the process was started, including before an exec in place. */
  get dropped(): number {
    return this.#buffer.dropped
  }

  /** True if everything has been written. */
  get empty(): boolean {
    return this.#buffer.size === 0
  }

  /** True while a pool thread is in write(2), which lasts as long as a disk hangs. */
  get writing(): boolean {
    return this.#progress.kind === 'writing'
  }

  /** True if much is pending but the output is accepting it: waiting avoids dropped lines. */
  get congested(): boolean {
    return this.#buffer.size > CONGESTED_SIZE && performance.now() - this.#lastProgressAt < STALLED_AFTER_MS
  }

  get state(): SinkState {
    const { dropped, unreported, begun } = this.#buffer
    return {
      pending: this.#buffer.rest().toString('base64'),
      begun: begun.toString('base64'),
      dropped,
      unreported,
      path: this.#path,
    }
  }

  /** Continues from the sink of the previous program. Call before the first `write`. */
  restore({ pending, begun = '', path, ...counts }: SinkState): void {
    this.#buffer.restore(Buffer.from(pending, 'base64'), { ...counts, begun: Buffer.from(begun, 'base64') })
    this.#path = path
    this.#schedule()
  }

  /** Resolves when the output is no longer congested, or after `limit` ms. */
  relieved(limit: number): Promise<void> {
    return this.#relief.wait(limit)
  }

  /** @param text whole lines */
  write(text: string | Buffer, origin: Origin = 'own'): void {
    if (this.#buffer.mayResume) this.#resume()
    if (this.empty) this.#lastProgressAt = performance.now()
    this.#buffer.push(typeof text === 'string' ? Buffer.from(text) : text, origin)
    this.#schedule()
  }

  /** Starts no new write until `proceed`. */
  pause(): void {
    this.#paused = true
  }

  proceed(): void {
    this.#paused = false
    this.#schedule()
  }

  /**
   * Resolves when everything is written, or after `limit` ms; while a thread is in a write, after `threadLimit` ms.
   *
   * @returns true if no thread is in a write
   */
  async settled(limit: number, threadLimit = limit): Promise<boolean> {
    this.#flush()
    const began = performance.now()
    for (;;) {
      const waited = performance.now() - began
      if (this.empty || (waited >= limit && !this.writing)) return true
      if (waited >= threadLimit) return !this.writing
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL_MS))
    }
  }

  /** Writes what the output accepts immediately, and stops waiting for more room. Call when the process exits. */
  close(): void {
    this.#closed = true
    this.#stopWaiting()
    this.#flush()
  }

  /**
   * Reopens the file that the descriptor referred to at the start, after it was renamed or removed, for this process and those it starts later.
   *
   * @returns the path, or undefined if it was not a file
   * @throws the error of open(2); nothing has changed then
   */
  reopen(): string | undefined {
    const path = this.#path
    if (path === null) return undefined
    // The mode of the previous file. O_NONBLOCK: a FIFO of this name must not block.
    const mode = fstatSync(this.#fd).mode & 0o777
    const file = new OwnedFd(openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, mode))
    try {
      if (!fstatSync(file.fd).isFile()) throw new Error(`${path} is not a regular file`)
      this.follow(file.fd)
    } finally {
      file.close()
    }
    return path
  }

  /**
   * Switches to the open file of `fd`, which is borrowed. If it is another file, a partially written line is written again as a whole; a
   * write in progress finishes in the previous file.
   */
  follow(fd: number): void {
    const another = !isSameFile(fd, this.#fd)
    dupOnto(fd, this.#fd)
    this.#stopWaiting()
    this.#outlet?.close()
    this.#outlet = undefined
    if (another && !this.writing) this.#buffer.beginAgain()
    this.#movedInWrite = another && this.writing
    this.#schedule()
  }

  /** Final call, from an `exit` listener: the event loop has stopped. */
  exit(): void {
    try {
      this.#outlet ??= openOutlet(this.#fd)
      if (this.#outlet.writeFile === undefined) return this.close()
      // Node waits at exit for the thread that is writing a part of it, so this blocks no longer than that.
      const rest = this.#buffer.rest().subarray(this.#inThread)
      for (let at = 0; at < rest.length;) at += this.#outlet.writeFile(rest.subarray(at))
      this.#buffer.written(rest.length + this.#inThread)
    } catch {
      // Nothing more can be done.
    }
  }

  #schedule(): void {
    if (this.#progress.kind !== 'idle' || this.empty) return
    this.#progress = SCHEDULED
    queueMicrotask(() => {
      if (this.#progress.kind === 'scheduled') this.#flush()
    })
  }

  #flush(): void {
    const { kind } = this.#progress
    if (kind !== 'scheduled' && kind !== 'idle') return
    this.#progress = IDLE
    this.#writeOn()
  }

  /** Writes until nothing is left, there is no room, a write fails, or a thread takes over. */
  #writeOn(): void {
    try {
      while (!this.#paused) {
        if (this.#buffer.mayResume) this.#resume()
        this.#outlet ??= openOutlet(this.#fd)
        const chunk = this.#buffer.next(this.#outlet.limit)
        if (chunk.length === 0) return
        const written = this.#outlet.write(chunk)
        if (typeof written !== 'number') return void this.#await(written, chunk.length)
        if (written === 0) return this.#retry(RETRY_DELAY_MS)
        this.#noteWritten(written)
      }
    } catch (error) {
      this.#failed(error)
    }
  }

  #noteWritten(count: number): void {
    this.#buffer.written(count)
    this.#lastProgressAt = performance.now()
    if (this.#buffer.size <= CONGESTED_SIZE) this.#relief.come()
  }

  async #await(write: Promise<number>, size: number): Promise<void> {
    this.#progress = WRITING
    this.#inThread = size
    let written = 0
    let failure: unknown
    try {
      written = await write
    } catch (error) {
      failure = error
    }
    this.#progress = IDLE
    this.#inThread = 0
    this.#noteWritten(written)
    if (this.#movedInWrite) {
      this.#movedInWrite = false
      this.#buffer.beginAgain()
      return this.#writeOn()
    }
    if (failure !== undefined) return this.#failed(failure)
    if (written === 0) this.#retry(RETRY_DELAY_MS)
    else this.#writeOn()
  }

  #failed(error: unknown): void {
    const errno = errnoOf(error) ?? String(error)
    this.#cause = errno
    if (errno !== 'EAGAIN') return this.#retry(RETRY_DELAY_MS)
    this.#awaitRoom()
  }

  #awaitRoom(): void {
    const fd = this.#outlet?.pollable
    if (this.#closed) return
    if (fd === undefined) return this.#retry(RETRY_DELAY_MS)
    try {
      const watch = sharedPoller().add(fd, EPOLLOUT, () => {
        watch.remove()
        this.#progress = IDLE
        const { size } = this.#buffer
        this.#writeOn()
        if (this.#progress.kind === 'full' && this.#buffer.size === size) {
          this.#progress.watch.remove()
          this.#retry(CONTENTION_DELAY_MS)
        }
      })
      this.#progress = { kind: 'full', watch }
    } catch {
      // It cannot be watched, or the process is out of descriptors.
      this.#retry(RETRY_DELAY_MS)
    }
  }

  #retry(delay: number): void {
    if (this.#closed) return
    const timer = setTimeout(() => {
      this.#progress = IDLE
      this.#writeOn()
    }, delay)
    timer.unref()
    this.#progress = { kind: 'failing', timer }
  }

  #stopWaiting(): void {
    if (this.#progress.kind === 'full') this.#progress.watch.remove()
    else if (this.#progress.kind === 'failing') clearTimeout(this.#progress.timer)
    else return
    this.#progress = IDLE
  }

  #resume(): void {
    const lines = this.#buffer.resume()
    this.onResume(lines, this.#cause)
  }
}

/** Whether two descriptors lead to the same file, terminal or pipe. */
export function isSameFile(one: number, other: number): boolean {
  try {
    const [file, another] = [fstatSync(one), fstatSync(other)]
    return file.dev === another.dev && file.ino === another.ino
  } catch {
    // The previous one was closed.
    return false
  }
}

/** Path of `fd`, if it is a file that still exists under this name. */
function pathOf(fd: number): string | null {
  try {
    const file = fstatSync(fd)
    if (!file.isFile()) return null
    const path = readlinkSync(`/proc/self/fd/${fd}`)
    const there = statSync(path)
    return there.dev === file.dev && there.ino === file.ino ? path : null
  } catch {
    return null
  }
}
