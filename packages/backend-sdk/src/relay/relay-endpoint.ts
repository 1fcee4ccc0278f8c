import { randomBytes } from 'node:crypto'
import { lstatSync, renameSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { listenUnix, type OwnedFd } from '@baton/native-sendmsg'
import { BackendError } from '../errors.ts'
import { decodeProxyHeader, type ProxyAddresses } from '../protocol/proxy-header.ts'
import { FOLDER_NAME, RelayFolder } from './relay-folder.ts'

/** A relay whose header has been read and whose token has not been checked yet. */
export interface IncomingRelay {
  readonly socket: Socket
  /** From the header; not to be trusted before the token is verified. */
  readonly addresses: ProxyAddresses | undefined
  /** Empty if the header has none. */
  readonly token: Buffer
  /** Bytes received after the header. Empty from a correct broker, which sends nothing before the ACK. */
  readonly rest: Buffer
}

/** Maximum connections whose header has not arrived, or whose session has not begun; further ones are closed immediately. */
const MAX_PENDING = 256

/** Node's own default. */
const BACKLOG = 511

/** sun_path holds 108 bytes, including the terminating NUL (unix(7)). */
const MAX_PATH_BYTES = 107

/** How often to check that the socket's file still exists: a cleaner of temporary folders may remove it. */
const CHECK_INTERVAL_MS = 1000

/**
 * Prefix of the endpoints' names beside the control socket, by which the broker finds and removes those of dead backends. A process
 * listens at such a name from the moment it appears. Until then the socket has a name with a dot before the prefix.
 */
export const RELAY_SOCKET_PREFIX = 'relay-'

const SUFFIX = '.sock'
const NAME_IN_FOLDER = `relay${SUFFIX}`

/**
 * The Unix socket that the broker dials when it cannot pass a descriptor; one for each registration. It is beside the control
 * socket, where the broker cleans up after dead backends, or in a folder of its own if that fails (another user's folder, or a path
 * that is too long). Every peer must present a token that was sent over control; until then the app sees nothing of it.
 */
export class RelayEndpoint {
  readonly path: string
  /** Created for the socket and removed with it; undefined beside the control socket. */
  readonly #folder: RelayFolder | undefined
  /** Undefined while the socket's file is gone and cannot be created. */
  #server: Server | undefined
  /** Device and inode of the socket's file. */
  #file: string | undefined
  #shared = false
  #closed = false
  #check: NodeJS.Timeout | undefined
  #restoring = false
  readonly #pendingConnections = new Set<Socket>()
  readonly #headerTimeout: number
  /** Relays that arrived before this process has read WELCOME; they wait for the session. */
  readonly #early: IncomingRelay[] = []
  #onArrival: (relay: IncomingRelay) => void = (relay) => void this.#early.push(relay)

  /**
   * @param control path of the control socket that was dialled
   * @param shared the broker runs as another user: all users may connect, and the token decides
   * @param headerTimeout milliseconds within which the whole header must arrive
   * @throws {BackendError} BATON_ERR_TEMPORARY_FOLDER
   */
  static async open(control: string, shared: boolean, headerTimeout: number): Promise<RelayEndpoint> {
    const name = `${RELAY_SOCKET_PREFIX}${randomBytes(6).toString('hex')}${SUFFIX}`
    const path = join(dirname(resolve(control)), name)
    if (fits(path)) {
      const beside = new RelayEndpoint(path, undefined, headerTimeout)
      try {
        return await beside.#listen(shared)
      } catch {
        beside.close()
      }
    }
    const separate = await RelayEndpoint.#inOwnFolder(shared, headerTimeout)
    try {
      return await separate.#listen(shared)
    } catch (error) {
      separate.close()
      throw unusable(error)
    }
  }

  static async #inOwnFolder(shared: boolean, headerTimeout: number): Promise<RelayEndpoint> {
    const temporary = fits(join(tmpdir(), FOLDER_NAME, NAME_IN_FOLDER)) ? tmpdir() : '/tmp'
    try {
      const folder = await RelayFolder.create(temporary, shared)
      return new RelayEndpoint(join(folder.path, NAME_IN_FOLDER), folder, headerTimeout)
    } catch (error) {
      throw unusable(error)
    }
  }

  private constructor(path: string, folder: RelayFolder | undefined, headerTimeout: number) {
    this.path = path
    this.#folder = folder
    this.#headerTimeout = headerTimeout
  }

  async #listen(shared: boolean): Promise<this> {
    this.#shared = shared
    await this.#serve()
    this.#check = setInterval(() => void this.#restore(), CHECK_INTERVAL_MS)
    // The control connection keeps the process alive while it is registered.
    this.#check.unref()
    return this
  }

  /** Rejects with the error of bind, listen or rename. */
  async #serve(): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#accepted(socket))
    this.#server = server
    const fd = this.#bind()
    await new Promise<void>((done, reject) => {
      server.once('error', reject)
      server.listen({ fd: fd.release() }, () => done())
    })
    server.unref()
    // The endpoint was closed meanwhile.
    if (this.#closed) this.#remove()
  }

  /**
   * Returns the listening socket, whose file is at `path` now. It is bound under another name: between bind(2) and listen(2) it refuses
   * connections like the socket of a dead process, which a broker that starts removes.
   */
  #bind(): OwnedFd {
    const unready = join(dirname(this.path), `.${basename(this.path, SUFFIX)}`)
    let fd: OwnedFd | undefined
    try {
      // Not Node's listen(path): the socket must refuse descriptors before any process can connect.
      fd = listenUnix({
        path: unready,
        mode: this.#shared ? 0o666 : 0o600,
        backlog: BACKLOG,
        descriptors: false,
      })
      this.#file = identityOf(unready)
      renameSync(unready, this.path)
      return fd
    } catch (error) {
      fd?.close()
      this.#file = undefined
      rmSync(unready, { force: true })
      throw error
    }
  }

  /**
   * Creates the socket again if its file is gone, or another file has its place, at the same path, which the broker knows. Relays that have
   * arrived continue.
   */
  async #restore(): Promise<void> {
    if (this.#restoring || (this.#file !== undefined && identityOf(this.path) === this.#file)) return
    this.#restoring = true
    this.#file = undefined
    try {
      this.#server?.close()
      this.#server = undefined
      this.#folder?.restore()
      await this.#serve()
    } catch {
      // Tried again at the next check: the broker may be about to restore the folder.
    } finally {
      this.#restoring = false
    }
  }

  /** Sets the listener; relays that have already arrived are reported immediately. */
  onArrival(listener: (relay: IncomingRelay) => void): void {
    this.#onArrival = listener
    for (const relay of this.#early.splice(0)) listener(relay)
  }

  /** Stops taking relays and removes the socket. Relays already reported continue. */
  close(): void {
    this.#closed = true
    clearInterval(this.#check)
    for (const pending of this.#pendingConnections) pending.destroy()
    for (const { socket } of this.#early.splice(0)) socket.destroy()
    this.#remove()
  }

  #remove(): void {
    this.#server?.close()
    try {
      // `force`: the broker may have removed it already.
      if (this.#file !== undefined) rmSync(this.path, { force: true })
    } catch {
      // The folder belongs to another user by now.
    }
    this.#file = undefined
    this.#folder?.remove()
  }

  #accepted(socket: Socket): void {
    if (this.#pendingConnections.size + this.#early.length >= MAX_PENDING) return void socket.destroy()
    this.#pendingConnections.add(socket)
    let read: Buffer = Buffer.alloc(0)
    const drop = () => {
      socket.destroy()
    }
    const timeout = setTimeout(drop, this.#headerTimeout)
    const onData = (chunk: Buffer) => {
      read = read.length === 0 ? chunk : Buffer.concat([read, chunk])
      let decoded: ReturnType<typeof decodeProxyHeader>
      try {
        decoded = decodeProxyHeader(read)
      } catch {
        // No answer and no log line: any local process may connect, and could fill the log.
        return drop()
      }
      if (decoded === undefined) return
      forget()
      socket.pause()
      const { header, length } = decoded
      this.#onArrival({
        socket,
        addresses: header.addresses,
        token: header.token ?? Buffer.alloc(0),
        rest: read.subarray(length),
      })
    }
    const forget = () => {
      clearTimeout(timeout)
      this.#pendingConnections.delete(socket)
      socket.off('data', onData).off('end', drop).off('close', forget)
    }
    // Until the app has the socket, there is no other listener for errors; 'close' follows each.
    socket.on('error', drop).on('data', onData).on('end', drop).on('close', forget)
  }
}

function unusable(cause: unknown): BackendError {
  const { code = '' } = cause as NodeJS.ErrnoException
  const problem = REASONS.get(code) ?? (cause instanceof Error ? cause.message : String(cause))
  return new BackendError(
    'BATON_ERR_TEMPORARY_FOLDER',
    `the socket for relays cannot be beside the control socket, and ${tmpdir()} ${problem}; set TMPDIR to another folder`,
    { cause },
  )
}

const REASONS = new Map([
  ['ENOENT', 'does not exist (ENOENT)'],
  ['ENOTDIR', 'is not a folder (ENOTDIR)'],
  ['EACCES', 'is not writable by this user (EACCES)'],
  ['EROFS', 'is on a read-only file system (EROFS)'],
  ['EINVAL', 'has a path too long for a socket (EINVAL)'],
  ['ENAMETOOLONG', 'has a path too long for a socket (ENAMETOOLONG)'],
])

/** Node silently truncates a longer path, and then the socket is not found under the full one (Node 20, libuv 1.46). */
function fits(path: string): boolean {
  return Buffer.byteLength(path) <= MAX_PATH_BYTES
}

function identityOf(path: string): string | undefined {
  try {
    const { dev, ino } = lstatSync(path, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return undefined
  }
}
