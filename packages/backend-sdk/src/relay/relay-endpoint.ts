import { randomBytes } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { listenUnix } from '@baton/native-sendmsg'
import { BackendError } from '../errors.ts'
import { decodeProxyHeader, type ProxyAddresses } from '../protocol/proxy-header.ts'

/** A relay whose header was read and whose token was not looked at yet. Nothing behind the header was read. */
export interface IncomingRelay {
  readonly socket: Socket
  /** As the header claims; not to be believed before the token is verified. */
  readonly addresses: ProxyAddresses | undefined
  /** Empty when the header has none. */
  readonly token: Buffer
  /** Came with the header. A broker sends nothing before the ACK, so there is none from an honest one. */
  readonly rest: Buffer
}

/** This many may be connected whose header has not come, or whose session has not begun; more are closed at once. */
const MAX_PENDING = 256

/** As Node's own. */
const BACKLOG = 511

/** sun_path holds 108 bytes, the terminating NUL among them (unix(7)). */
const MAX_PATH_BYTES = 107

/** How often the socket's file is checked, in ms: a cleaner of temporary folders may remove it. */
const CHECK_INTERVAL_MS = 1000

/** Others may connect to what is in it, and not list or change it. */
const SHARED_FOLDER = 0o711

const FOLDER_PREFIX = 'baton-relay-'

/** Begins the name of each endpoint beside the control socket: the broker removes those that the dead have left. */
export const RELAY_SOCKET_PREFIX = 'relay-'

/**
 * Where the broker dials when it cannot pass a descriptor: a Unix socket, one for each registration. It lies beside the
 * control socket, where the broker cleans up after backends that died, or in a folder of its own when this user may not
 * write there (broker and backend are different users, or the path grows too long). Whoever can reach it must show a token that came over control; until then the app sees nothing.
 */
export class RelayEndpoint {
  readonly path: string
  /** Ours alone, to be removed with the socket; undefined beside the control socket. */
  readonly #folder: string | undefined
  /** Undefined while the socket's file is gone and cannot be created. */
  #server: Server | undefined
  /** Device and inode of the socket's file. */
  #file: string | undefined
  #shared = false
  #closed = false
  #check: NodeJS.Timeout | undefined
  #restoring = false
  readonly #pendingConnections = new Set<Socket>()
  readonly #patience: number
  /** Dialled by a broker whose WELCOME this process has not read yet: they wait for the session. */
  readonly #early: IncomingRelay[] = []
  #onArrival: (relay: IncomingRelay) => void = (relay) => void this.#early.push(relay)

  /**
   * @param control path of the control socket that was dialled
   * @param shared the broker runs as another user: everybody may connect, and the token decides
   * @param patience milliseconds within which the header must be whole
   */
  static async open(control: string, shared: boolean, patience: number): Promise<RelayEndpoint> {
    const name = `${RELAY_SOCKET_PREFIX}${randomBytes(6).toString('hex')}.sock`
    const path = join(dirname(resolve(control)), name)
    if (fits(path)) {
      const beside = new RelayEndpoint(path, undefined, patience)
      try {
        return await beside.#listen(shared)
      } catch {
        beside.close()
      }
    }
    const apart = RelayEndpoint.#apart(shared, patience)
    try {
      return await apart.#listen(shared)
    } catch (error) {
      apart.close()
      throw unusable(error)
    }
  }

  static #apart(shared: boolean, patience: number): RelayEndpoint {
    let folder: string
    try {
      const temporary = fits(join(tmpdir(), `${FOLDER_PREFIX}XXXXXX`, 'relay.sock')) ? tmpdir() : '/tmp'
      folder = mkdtempSync(join(temporary, FOLDER_PREFIX))
    } catch (error) {
      throw unusable(error)
    }
    if (shared) chmodSync(folder, SHARED_FOLDER)
    return new RelayEndpoint(join(folder, 'relay.sock'), folder, patience)
  }

  private constructor(path: string, folder: string | undefined, patience: number) {
    this.path = path
    this.#folder = folder
    this.#patience = patience
  }

  async #listen(shared: boolean): Promise<this> {
    this.#shared = shared
    await this.#serve()
    this.#check = setInterval(() => void this.#restore(), CHECK_INTERVAL_MS)
    // The control connection keeps the process alive for as long as it is registered.
    this.#check.unref()
    return this
  }

  /** Rejects with what listen says. */
  async #serve(): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => this.#accepted(socket))
    this.#server = server
    // Not Node's own listen(path): descriptors have to be refused before another process can connect.
    const fd = listenUnix({
      path: this.path,
      mode: this.#shared ? 0o666 : 0o600,
      backlog: BACKLOG,
      descriptors: false,
    })
    this.#file = identityOf(this.path)
    await new Promise<void>((done, reject) => {
      server.once('error', reject)
      server.listen({ fd: fd.release() }, () => done())
    })
    server.unref()
    // Closed in the meantime.
    if (this.#closed) this.#remove()
  }

  /** At the same path, which the broker knows. Relays that have arrived go on. */
  async #restore(): Promise<void> {
    if (this.#restoring || (this.#file !== undefined && identityOf(this.path) === this.#file)) return
    this.#restoring = true
    this.#file = undefined
    try {
      this.#server?.close()
      // Node did not make the file, so it does not remove what has taken its place.
      rmSync(this.path, { force: true })
      this.#server = undefined
      if (this.#folder !== undefined && identityOf(this.#folder) === undefined) {
        mkdirSync(this.#folder, { mode: this.#shared ? SHARED_FOLDER : 0o700 })
      }
      await this.#serve()
    } catch {
      // The broker may be about to create the folder again; and a reload brings another endpoint.
    } finally {
      this.#restoring = false
    }
  }

  /** Relays that have arrived before are told of at once. */
  onArrival(listener: (relay: IncomingRelay) => void): void {
    this.#onArrival = listener
    for (const relay of this.#early.splice(0)) listener(relay)
  }

  /** No more relays; those that were handed on live on. The socket's name goes with it. */
  close(): void {
    this.#closed = true
    clearInterval(this.#check)
    for (const stranger of this.#pendingConnections) stranger.destroy()
    for (const { socket } of this.#early.splice(0)) socket.destroy()
    this.#remove()
  }

  #remove(): void {
    this.#server?.close()
    try {
      // The broker may have removed it, and force does not mind.
      if (this.#file !== undefined) rmSync(this.path, { force: true })
      this.#file = undefined
      if (this.#folder !== undefined) rmdirSync(this.#folder)
    } catch {
      // Out of descriptors, or somebody put a file there. An empty folder is left behind and harms nobody.
    }
  }

  #accepted(socket: Socket): void {
    if (this.#pendingConnections.size + this.#early.length >= MAX_PENDING) return void socket.destroy()
    this.#pendingConnections.add(socket)
    let read: Buffer = Buffer.alloc(0)
    const drop = () => {
      socket.destroy()
    }
    const timeout = setTimeout(drop, this.#patience)
    const onData = (chunk: Buffer) => {
      read = read.length === 0 ? chunk : Buffer.concat([read, chunk])
      let decoded: ReturnType<typeof decodeProxyHeader>
      try {
        decoded = decodeProxyHeader(read)
      } catch {
        // Whoever this is gets no answer and no log line: anybody could write either as often as they like.
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
    // Errors are followed by 'close'; until the app has the socket, nobody else listens for them.
    socket.on('error', drop).on('data', onData).on('end', drop).on('close', forget)
  }
}

function unusable(cause: unknown): BackendError {
  const { code = '' } = cause as NodeJS.ErrnoException
  const why = REASONS.get(code) ?? (cause instanceof Error ? cause.message : String(cause))
  return new BackendError(
    'BATON_ERR_TEMPORARY_FOLDER',
    `the endpoint for relays does not fit beside the control socket, and ${tmpdir()} ${why}; set TMPDIR to another folder`,
    { cause },
  )
}

const REASONS = new Map([
  ['ENOENT', 'does not exist (ENOENT)'],
  ['ENOTDIR', 'is not a folder (ENOTDIR)'],
  ['EACCES', 'may not be written to by this user (EACCES)'],
  ['EROFS', 'is on a read-only file system (EROFS)'],
  ['EINVAL', 'has a path too long for a socket (EINVAL)'],
  ['ENAMETOOLONG', 'has a path too long for a socket (ENAMETOOLONG)'],
])
/** Node cuts a longer path to what fits, without an error, and then nothing is found under the whole one (Node 20, libuv 1.46). */
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
