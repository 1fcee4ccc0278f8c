import { constants, fstatSync, openSync, readlinkSync, statSync } from 'node:fs'
import { dupOnto, EPOLLOUT, OwnedFd, sharedPoller, type Watch } from '@baton/native-sendmsg'
import { errnoOf } from '../config/index.ts'
import { LineBuffer, type Origin } from './line-buffer.ts'
import { openOutlet, type Outlet } from './outlet.ts'

/** Bytes that wait for a slow reader, a full disk or a hung one before lines are dropped. */
const MAX_BUFFER_BYTES = 4 * 1024 * 1024

/** What of it output of managed backends does not fill. */
const BUFFER_RESERVE = MAX_BUFFER_BYTES / 8

/** Above this size, in bytes, a source of many lines does well to wait for a moment. */
const CONGESTED_SIZE = MAX_BUFFER_BYTES / 8

/** An output that has not taken a byte for this time, in ms, is not worth waiting for. */
const STALLED_AFTER_MS = 250

/** A write that failed is tried again after this time, in ms. There is no event for "the disk has room". */
const RETRY_DELAY_MS = 250

/** Delay before a descriptor that was reported writable and did not accept a byte is tried again, in ms: another process was faster. */
const CONTENTION_DELAY_MS = 20

/** Interval at which `settled` looks whether there is progress, in ms. */
const POLL_INTERVAL_MS = 5

const { O_APPEND, O_CREAT, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants

/** What crosses an exec in place. */
export interface SinkState {
  /** Lines that were not written, in base64. */
  readonly pending: string
  /** The part of a line that was written and whose rest comes first in `pending`, in base64. Absent in the state of an older version. */
  readonly begun?: string
  /** Lines dropped since the process was started, and those of them that no line has reported yet. */
  readonly dropped: number
  readonly unreported: number
  /** The file that the descriptor was when the process was started; null for anything but a file. */
  readonly path: string | null
}

/** How the sink is getting on with its output. */
type Progress =
  /** Nothing to write. */
  | { readonly kind: 'idle' }
  /** At the end of this turn of the event loop: what is logged in one turn is written together. */
  | { readonly kind: 'scheduled' }
  /** A thread writes. */
  | { readonly kind: 'writing' }
  /** The kernel tells when there is room. */
  | { readonly kind: 'full'; readonly watch: Watch }
  /** The timer tells when to try again. */
  | { readonly kind: 'failing'; readonly timer: NodeJS.Timeout }

const IDLE: Progress = { kind: 'idle' }
const SCHEDULED: Progress = { kind: 'scheduled' }
const WRITING: Progress = { kind: 'writing' }

/**
 * Standard output or standard error of a process that must go on whatever becomes of them: nothing here throws, emits an error, or
 * waits. Lines are kept in a bounded buffer while the output does not take them, and dropped and counted beyond that.
 */
export class Sink {
  /** Called when lines are accepted again after some were dropped: the place to say so. `cause`: an errno; EAGAIN for a slow reader. */
  onResume: (lines: number, cause: string) => void = () => {}
  readonly #fd: number
  readonly #buffer = new LineBuffer({ limit: MAX_BUFFER_BYTES, reserve: BUFFER_RESERVE })
  #outlet: Outlet | undefined
  #progress: Progress = IDLE
  /** When the output last took something, or had nothing to take. */
  #tookAt = performance.now()
  readonly #waiting = new Set<() => void>()
  /** Bytes that a thread writes. */
  #inThread = 0
  /** The output became another file while a thread was in a write to the former one. */
  #movedInWrite = false
  /** The last failure, which is why lines are dropped. */
  #cause = 'EAGAIN'
  /** No write begins: the program is about to be replaced. */
  #paused = false
  /** The process is about to end: nothing may keep it. */
  #closed = false
  #path: string | null

  /** @param fd borrowed; its flags are not changed */
  constructor(fd: number) {
    this.#fd = fd
    this.#path = pathOf(fd)
  }

  /** Lines dropped since the process was started, over all its programs. */
  get dropped(): number {
    return this.#buffer.dropped
  }

  /** Everything was written. */
  get empty(): boolean {
    return this.#buffer.size === 0
  }

  /** A thread is in write(2), maybe for as long as a disk does not answer. */
  get writing(): boolean {
    return this.#progress.kind === 'writing'
  }

  /** Much waits, and the output is taking it: to wait for it keeps lines that would be dropped. */
  get congested(): boolean {
    return this.#buffer.size > CONGESTED_SIZE && performance.now() - this.#tookAt < STALLED_AFTER_MS
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

  /** Goes on where the sink of the previous program has ended; before the first `write`. */
  restore({ pending, begun = '', path, ...counts }: SinkState): void {
    this.#buffer.restore(Buffer.from(pending, 'base64'), { ...counts, begun: Buffer.from(begun, 'base64') })
    this.#path = path
    this.#schedule()
  }

  /** Resolves when it is congested no more, or after `limit` ms. */
  relieved(limit: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        this.#waiting.delete(done)
        resolve()
      }
      const timer = setTimeout(done, limit)
      this.#waiting.add(done)
    })
  }

  /** @param text whole lines */
  write(text: string | Buffer, origin: Origin = 'own'): void {
    if (this.#buffer.mayResume) this.#resume()
    if (this.empty) this.#tookAt = performance.now()
    this.#buffer.push(typeof text === 'string' ? Buffer.from(text) : text, origin)
    this.#schedule()
  }

  /** No write begins from now on, until `proceed`. */
  pause(): void {
    this.#paused = true
  }

  proceed(): void {
    this.#paused = false
    this.#schedule()
  }

  /**
   * Resolves when everything is written, or after `limit` ms. A thread that is in a write is waited for until `threadLimit` ms.
   *
   * @returns whether no thread is in a write
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

  /** Writes what the output takes at once, and waits for nothing any more. At the end of the process. */
  close(): void {
    this.#closed = true
    this.#stopWaiting()
    this.#flush()
  }

  /**
   * Opens the file again that the descriptor was at the start (it was renamed, or removed), for this process and all that it starts later.
   *
   * @returns the path, or undefined when it is no file
   * @throws what open(2) says, and then nothing has changed
   */
  reopen(): string | undefined {
    const path = this.#path
    if (path === null) return undefined
    // The mode of the file that it follows. O_NONBLOCK: a FIFO of this name must not block.
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
   * Writes to the open file of `fd` from now on, which stays the caller's. A line of which only a part was written is begun again if
   * it is another file; a write that is under way ends in the former one.
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

  /** The last call, from an `exit` listener: the event loop does not turn any more. */
  exit(): void {
    try {
      this.#outlet ??= openOutlet(this.#fd)
      if (this.#outlet.writeFile === undefined) return this.close()
      // Node waits for the thread that writes a part of it, so this blocks no longer than the end itself.
      const rest = this.#buffer.rest().subarray(this.#inThread)
      for (let at = 0; at < rest.length;) at += this.#outlet.writeFile(rest.subarray(at))
      this.#buffer.written(rest.length + this.#inThread)
    } catch {
      // Nothing else can be done.
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

  /** Writes until there is nothing left, no room, an error, or a thread is at work. */
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
        this.#took(written)
      }
    } catch (error) {
      this.#failed(error)
    }
  }

  #took(count: number): void {
    this.#buffer.written(count)
    this.#tookAt = performance.now()
    if (this.#buffer.size <= CONGESTED_SIZE) for (const done of this.#waiting) done()
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
    this.#took(written)
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
      // It cannot be watched, or there is no descriptor to do so.
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
    // The former one was closed.
    return false
  }
}

/** Its path, if it is a file that is still there under this name. */
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
