import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { listenUnix } from '@baton/native-sendmsg'
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
const MOST_STRANGERS = 256

/** As Node's own. */
const BACKLOG = 511

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
  readonly #server: Server
  readonly #strangers = new Set<Socket>()
  readonly #patience: number
  /** Dialled by a broker whose WELCOME this process has not read yet: they wait for the session. */
  readonly #early: IncomingRelay[] = []
  #bound = false
  #onArrival: (relay: IncomingRelay) => void = (relay) => void this.#early.push(relay)

  /**
   * @param control path of the control socket that was dialled
   * @param shared the broker runs as another user: everybody may connect, and the token decides
   * @param patience milliseconds within which the header must be whole
   */
  static async open(control: string, shared: boolean, patience: number): Promise<RelayEndpoint> {
    const name = `${RELAY_SOCKET_PREFIX}${randomBytes(6).toString('hex')}.sock`
    const beside = new RelayEndpoint(join(dirname(resolve(control)), name), undefined, patience)
    try {
      return await beside.#listen(shared)
    } catch {
      beside.close()
    }
    const folder = mkdtempSync(join(tmpdir(), 'baton-relay-'))
    if (shared) chmodSync(folder, 0o711)
    const apart = new RelayEndpoint(join(folder, 'relay.sock'), folder, patience)
    try {
      return await apart.#listen(shared)
    } catch (error) {
      apart.close()
      throw error
    }
  }

  private constructor(path: string, folder: string | undefined, patience: number) {
    this.path = path
    this.#folder = folder
    this.#patience = patience
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#meet(socket))
  }

  async #listen(shared: boolean): Promise<this> {
    // Not Node's own listen(path): descriptors have to be refused before anybody can connect.
    const fd = listenUnix({
      path: this.path,
      mode: shared ? 0o666 : 0o600,
      backlog: BACKLOG,
      descriptors: false,
    })
    this.#bound = true
    await new Promise<void>((done, reject) => {
      this.#server.once('error', reject)
      this.#server.listen({ fd: fd.release() }, () => done())
    })
    // The control connection keeps the process alive for as long as it is registered.
    this.#server.unref()
    return this
  }

  /** Relays that have arrived before are told of at once. */
  onArrival(listener: (relay: IncomingRelay) => void): void {
    this.#onArrival = listener
    for (const relay of this.#early.splice(0)) listener(relay)
  }

  /** No more relays; those that were handed on live on. The socket's name goes with it. */
  close(): void {
    this.#server.close()
    for (const stranger of this.#strangers) stranger.destroy()
    for (const { socket } of this.#early.splice(0)) socket.destroy()
    try {
      // The broker may have removed it, and force does not mind.
      if (this.#bound) rmSync(this.path, { force: true })
      this.#bound = false
      if (this.#folder !== undefined) rmdirSync(this.#folder)
    } catch {
      // Out of descriptors, or somebody put a file there. An empty folder is left behind and harms nobody.
    }
  }

  #meet(socket: Socket): void {
    if (this.#strangers.size + this.#early.length >= MOST_STRANGERS) return void socket.destroy()
    this.#strangers.add(socket)
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
      this.#strangers.delete(socket)
      socket.off('data', onData).off('end', drop).off('close', forget)
    }
    // Errors are followed by 'close'; until the app has the socket, nobody else listens for them.
    socket.on('error', drop).on('data', onData).on('end', drop).on('close', forget)
  }
}
