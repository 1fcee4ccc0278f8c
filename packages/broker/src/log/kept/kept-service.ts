import { constants, writeSync } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, unlink } from 'node:fs/promises'
import { errnoOf } from '../../config/error.ts'
import { LineBuffer, type LineBufferState } from '../line-buffer.ts'
import { filesOf, outputFile } from './files.ts'

/** How much of the output of a service is kept. */
export interface KeepLimits {
  /** Maximum size of a file, in bytes. */
  readonly size: number
  readonly files: number
}

/** Maximum bytes pending for a slow, full or hung disk, before lines are dropped. */
const MAX_BUFFER_BYTES = 4 * 1024 * 1024

/** Above this size, in bytes, a source of many lines should pause. */
const CONGESTED_SIZE = MAX_BUFFER_BYTES / 8

/** A disk that has accepted no byte for this time, in ms, is considered stalled and not waited for. */
const STALLED_AFTER_MS = 250

/** Delay before a failed step is tried again, in ms. No event reports that a disk has room again. */
const RETRY_DELAY_MS = 250

/** Writes to a file are atomic: they hold the inode's lock. */
const CHUNK = 256 * 1024

const { O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_RDWR } = constants
const NEWLINE = 0x0a

/** State that crosses an exec; bytes in base64. */
export interface KeptServiceState extends Pick<LineBufferState, 'dropped' | 'unreported'> {
  readonly pending: string
}

export interface KeptServiceEvents {
  /** A step has failed, after one that had not. */
  failed(reason: string): void
  /** Lines were dropped, and there is room again. */
  resumed(lines: number, reason: string): void
}

interface OpenFile {
  readonly number: number
  readonly handle: FileHandle
  readonly dev: number
  readonly ino: number
}

/** Kept output of one service: what is pending, and the file that it goes to. Every file operation runs in a pool thread. */
export class KeptService {
  readonly #folder: string
  readonly name: string
  readonly #limits: () => KeepLimits
  readonly #events: KeptServiceEvents
  readonly #buffer = new LineBuffer({ limit: MAX_BUFFER_BYTES, reserve: 0 })
  #file: OpenFile | undefined
  /** Of the file, in bytes. */
  #size = 0
  /** When the disk last accepted bytes, or nothing was pending: by performance.now(). */
  #lastProgressAt = performance.now()
  /** A failed step is not tried again before. */
  #retryAt = 0
  #failing = false
  #cause = 'EAGAIN'

  constructor(folder: string, name: string, limits: () => KeepLimits, events: KeptServiceEvents) {
    this.#folder = folder
    this.name = name
    this.#limits = limits
    this.#events = events
  }

  get empty(): boolean {
    return this.#buffer.size === 0
  }

  /** When the next step may be taken: by performance.now(). */
  get retryAt(): number {
    return this.#retryAt
  }

  get congested(): boolean {
    return this.#buffer.size > CONGESTED_SIZE && performance.now() - this.#lastProgressAt < STALLED_AFTER_MS
  }

  /** When the disk last accepted bytes, or nothing was pending: by performance.now(). */
  get lastProgressAt(): number {
    return this.#lastProgressAt
  }

  get dropped(): number {
    return this.#buffer.dropped
  }

  get state(): KeptServiceState {
    const { dropped, unreported, begun } = this.#buffer
    // The next program ends a line that was partially written, and writes it again as a whole.
    return { pending: Buffer.concat([begun, this.#buffer.rest()]).toString('base64'), dropped, unreported }
  }

  restore({ pending, ...counts }: KeptServiceState): void {
    this.#buffer.restore(Buffer.from(pending, 'base64'), { ...counts, begun: Buffer.alloc(0) })
  }

  /** @param text whole lines */
  push(text: string): void {
    if (this.#buffer.mayResume) this.#resume()
    if (this.empty) this.#lastProgressAt = performance.now()
    this.#buffer.push(Buffer.from(text), 'output')
  }

  /** Writes the next lines, or opens the next file. Does not throw. */
  async step(): Promise<void> {
    try {
      if (this.#buffer.mayResume) this.#resume()
      await this.#write()
      this.#failing = false
    } catch (error) {
      this.#cause = errnoOf(error) ?? String(error)
      this.#retryAt = performance.now() + RETRY_DELAY_MS
      if (!this.#failing) this.#events.failed(error instanceof Error ? error.message : String(error))
      this.#failing = true
    }
  }

  /** Final call, while no step is in progress: writes in this thread. */
  exit(): void {
    const file = this.#file
    if (file === undefined) return
    try {
      const rest = this.#buffer.rest()
      for (let at = 0; at < rest.length;) at += writeSync(file.handle.fd, rest, at)
      this.#buffer.written(rest.length)
    } catch {
      // Nothing more can be done.
    }
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.handle.close().catch(() => {})
  }

  async #write(): Promise<void> {
    const { size } = this.#limits()
    // A cleaner of temporary folders may have removed it, or the whole folder.
    if (this.#file !== undefined && !(await this.#isThere(this.#file))) await this.#leave()
    this.#file ??= await this.#open(await this.#newest())
    const room = Math.max(0, size - this.#size)
    let chunk = this.#buffer.next(Math.min(CHUNK, room))
    if (chunk.length > room && this.#size > 0 && this.#buffer.begun.length === 0) {
      await this.#rotate()
      chunk = this.#buffer.next(Math.min(CHUNK, size))
    }
    const { bytesWritten } = await this.#file.handle.write(chunk, 0, chunk.length, null)
    this.#buffer.written(bytesWritten)
    this.#size += bytesWritten
    this.#lastProgressAt = performance.now()
  }

  async #isThere({ number, dev, ino }: OpenFile): Promise<boolean> {
    try {
      const found = await lstat(outputFile(this.#folder, this.name, number))
      return found.ino === ino && found.dev === dev
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false
      throw error
    }
  }

  async #newest(): Promise<number> {
    return (await filesOf(this.#folder, this.name)).at(-1) ?? Date.now()
  }

  async #rotate(): Promise<void> {
    const former = this.#file
    const numbers = await filesOf(this.#folder, this.name)
    const next = Math.max(Date.now(), ...[former?.number, numbers.at(-1)].map((number = 0) => number + 1))
    this.#file = await this.#open(next)
    await former?.handle.close().catch(() => {})
    for (const old of [...numbers, next].slice(0, -this.#limits().files))
      await unlink(outputFile(this.#folder, this.name, old)).catch(() => {})
  }

  /** Another file follows. A partially written line goes there as a whole. */
  async #leave(): Promise<void> {
    await this.close()
    this.#buffer.beginAgain()
  }

  async #open(number: number): Promise<OpenFile> {
    const path = outputFile(this.#folder, this.name, number)
    const openFile = () => open(path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0o600)
    const handle = await openFile().catch(async (error: unknown) => {
      if (errnoOf(error) !== 'ENOENT') throw error
      // Not with its parents: `runtimeDir` has an owner and a mode that the master checks when it creates it again.
      await mkdir(this.#folder, { mode: 0o700 })
      return openFile()
    })
    try {
      const stats = await handle.stat()
      if (!stats.isFile()) throw new Error(`${path} is not a regular file`)
      this.#size = stats.size
      const { dev, ino, size } = stats
      // Its last line was cut off when its writer was killed.
      if (size > 0 && !(await endsLine(handle, size))) this.#size += (await handle.write('\n')).bytesWritten
      return { number, handle, dev, ino }
    } catch (error) {
      await handle.close().catch(() => {})
      throw error
    }
  }

  #resume(): void {
    this.#events.resumed(
      this.#buffer.resume(),
      this.#cause === 'EAGAIN' ? 'the disk was too slow' : this.#cause,
    )
    this.#cause = 'EAGAIN'
  }
}

async function endsLine(handle: FileHandle, size: number): Promise<boolean> {
  const last = Buffer.alloc(1)
  await handle.read(last, 0, 1, size - 1)
  return last[0] === NEWLINE
}
