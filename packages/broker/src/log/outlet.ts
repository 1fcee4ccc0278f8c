import { close, constants, fstatSync, openSync, readFileSync, write, writeSync } from 'node:fs'
import { promisify } from 'node:util'
import { dup, type OwnedFd, poll, POLLERR, POLLHUP, POLLOUT, send } from '@baton/native-sendmsg'
import { errnoOf } from '../config/error.ts'

/** Writes to an open file without ever blocking this thread. */
export interface Outlet {
  /** Descriptor whose EPOLLOUT reports room; undefined if the kernel cannot report it. */
  readonly pollable: number | undefined
  /** Maximum size of an atomic write, in bytes. */
  readonly limit: number
  /**
   * Returns or resolves with the number of bytes written.
   *
   * @throws an error whose code is an errno name: EAGAIN if there is no room
   */
  write(bytes: Buffer): number | Promise<number>
  /** Only for files: writes in this thread, which may block. */
  writeFile?(bytes: Buffer): number
  close(): void
}

/**
 * Writes of up to 4096 bytes to a pipe are atomic (PIPE_BUF, pipe(7)); a nonblocking pipe takes all of them or none. So lines of the
 * master and of a worker, which share a pipe, do not interleave.
 */
const PIPE_BUF = 4096

/** Writes to a regular file are atomic: they hold the inode's lock. */
const FILE_CHUNK = 256 * 1024

/** Device number of /dev/ptmx, which cannot be reopened: opening it creates another terminal. */
const PTMX = 0x502

const writeAsync = promisify(write)

const { O_APPEND, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants
/** The access mode in the flags of an open file: O_RDONLY is 0. */
const O_ACCMODE = 3

/**
 * The right outlet for `fd`, which stays open and unchanged. O_NONBLOCK belongs to the open file, so setting it would affect the
 * terminal of a shell, or the output of any other process.
 *
 * @throws an error whose code is an errno name, if writing is not possible for now: ENXIO, EIO, EBADF
 */
export function openOutlet(fd: number): Outlet {
  const stats = fstatSync(fd)
  if (isReadOnly(fd)) throw failure('EBADF')
  if (stats.isSocket()) return new SocketOutlet(fd)
  if (stats.isFile()) return new FileOutlet(fd)
  if (stats.isFIFO() || (stats.isCharacterDevice() && stats.rdev !== PTMX)) {
    try {
      return new OwnOutlet(openSync(`/proc/self/fd/${fd}`, O_WRONLY | O_NONBLOCK | O_APPEND | O_NOCTTY))
    } catch (error) {
      // Temporary: no reader, a terminal after a hang-up, no free descriptor. Permanent: another user's terminal, no /proc.
      if (TEMPORARY.has(errnoOf(error) ?? '')) throw error
    }
  }
  return new BlockingOutlet(fd)
}

const TEMPORARY = new Set(['ENXIO', 'EIO', 'EMFILE', 'ENFILE', 'ENOMEM'])

function isReadOnly(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1]
    return flags !== undefined && (Number.parseInt(flags, 8) & O_ACCMODE) === 0
  } catch {
    // No /proc: the first write will fail instead.
    return false
  }
}

/** A pipe or a device, reopened as a nonblocking open file of our own. */
class OwnOutlet implements Outlet {
  readonly pollable: number
  readonly limit = PIPE_BUF

  /** Takes ownership of `fd`. */
  constructor(fd: number) {
    this.pollable = fd
  }

  write(bytes: Buffer): number {
    return writeSync(this.pollable, bytes)
  }

  close(): void {
    close(this.pollable, () => {})
  }
}

class SocketOutlet implements Outlet {
  readonly pollable: number
  readonly limit = PIPE_BUF

  constructor(fd: number) {
    this.pollable = fd
  }

  write(bytes: Buffer): number {
    return send(this.pollable, bytes)
  }

  close(): void {}
}

/**
 * A slow or hung disk blocks write(2) whatever the flags, so a thread of libuv's pool does the writing. It uses a duplicate, so that a
 * queued write goes to this file even if the original descriptor is replaced in the meantime.
 */
class FileOutlet implements Outlet {
  readonly pollable = undefined
  readonly limit = FILE_CHUNK
  readonly #file: OwnedFd
  #writing = false
  #closed = false

  constructor(fd: number) {
    this.#file = dup(fd)
  }

  async write(bytes: Buffer): Promise<number> {
    this.#writing = true
    try {
      return await writeInThread(this.#file.fd, bytes)
    } finally {
      this.#writing = false
      this.#closeIfDone()
    }
  }

  writeFile(bytes: Buffer): number {
    return writeSync(this.#file.fd, bytes)
  }

  close(): void {
    this.#closed = true
    this.#closeIfDone()
  }

  /** Closes in a pool thread, because a hung disk also blocks close(2). */
  #closeIfDone(): void {
    if (this.#closed && !this.#writing && !this.#file.closed) close(this.#file.release(), () => {})
  }
}

/**
 * A file that cannot be reopened. Written to only when poll(2) reports room, in chunks that fit; if another process fills the room
 * first, a pool thread blocks.
 */
class BlockingOutlet implements Outlet {
  readonly pollable: number
  readonly limit = PIPE_BUF

  constructor(fd: number) {
    this.pollable = fd
  }

  write(bytes: Buffer): Promise<number> {
    if ((poll(this.pollable, POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) === 0) throw failure('EAGAIN')
    return writeInThread(this.pollable, bytes.subarray(0, this.limit))
  }

  close(): void {}
}

async function writeInThread(fd: number, bytes: Buffer): Promise<number> {
  const { bytesWritten } = await writeAsync(fd, bytes, 0, bytes.length, null)
  return bytesWritten
}

function failure(code: string): Error {
  return Object.assign(new Error(code), { code })
}
