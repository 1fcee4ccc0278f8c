import { close, constants, fstatSync, openSync, readFileSync, write, writeSync } from 'node:fs'
import { promisify } from 'node:util'
import { dup, type OwnedFd, poll, POLLERR, POLLHUP, POLLOUT, send } from '@baton/native-sendmsg'
import { errnoOf } from '../config/error.ts'

/** A way to write to an open file without ever blocking this thread. */
export interface Outlet {
  /** Its EPOLLOUT says that there is room again; undefined where the kernel does not say. */
  readonly pollable: number | undefined
  /** Maximum size of one write that is to stay whole, in bytes. */
  readonly limit: number
  /**
   * Returns or resolves with the number of bytes written.
   *
   * @throws an error with an errno as its code: EAGAIN when there is no room
   */
  write(bytes: Buffer): number | Promise<number>
  /** The same for a file, in this thread, which may block. */
  writeFile?(bytes: Buffer): number
  close(): void
}

/**
 * A pipe takes up to 4096 bytes in one piece (PIPE_BUF, pipe(7)), and refuses them in one piece if it is nonblocking. Lines of the
 * master and of a worker, which share a pipe, do not cut each other.
 */
const PIPE_BUF = 4096

/** Writes to a regular file are whole: they hold the inode's lock. */
const FILE_CHUNK = 256 * 1024

/** Device number of /dev/ptmx: opening it again makes another terminal. */
const PTMX = 0x502

const writeAsync = promisify(write)

const { O_APPEND, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants
/** The access mode in the flags of an open file: O_RDONLY is 0. */
const O_ACCMODE = 3

/**
 * The right way to write to `fd`, which stays open and stays as it is: O_NONBLOCK belongs to the open file, and so would change the
 * terminal of a shell, or the output of any other process.
 *
 * @throws an error with an errno as its code, when it cannot be written to for now: ENXIO, EIO, EBADF
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
      // No reader, a terminal that was hung up, no free descriptor. Other reasons are permanent: another user's terminal, no /proc.
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
    // No /proc: the first write tells.
    return false
  }
}

/** A pipe or a device, through an open file of our own, which is nonblocking. */
class OwnOutlet implements Outlet {
  readonly pollable: number
  readonly limit = PIPE_BUF

  /** Owns `fd`. */
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
 * A slow or hung disk blocks write(2) whatever the flags are: it blocks a thread of libuv's pool, not this one. Through a descriptor of
 * our own, so that a write which waits for a thread goes to this file, whatever the descriptor has become meanwhile.
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

  /** By a thread: a disk that hangs blocks close(2) as well. */
  #closeIfDone(): void {
    if (this.#closed && !this.#writing && !this.#file.closed) close(this.#file.release(), () => {})
  }
}

/**
 * What cannot be opened again. It is written to when it has room, in pieces for which that is enough; another process may take
 * the room first, and then a thread is blocked.
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
