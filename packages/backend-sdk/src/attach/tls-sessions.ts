import { AsyncResource } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { type SecureContextOptions, Server } from 'node:tls'
import { TICKET_KEY_LENGTH } from '../protocol/frames.ts'
import { isWholeHello } from './client-hello.ts'
import type { Overlay } from './overlay.ts'
import { shareSessionIdContext } from './session-id-context.ts'
import type { AttachableServer } from './server-kind.ts'

/** A ticket begins with the name of its key, which is not secret. */
const NAME_LENGTH = 16

/** How long to wait for a ClientHello. Then the server gets the connection as it is, and its `handshakeTimeout` begins. */
const HELLO_TIMEOUT_MS = 10_000

/**
 * Sessions of a TLS server that resume in every process of its service: the broker gives all of them the same keys for session tickets.
 *
 * Node has one key, for new tickets and old ones, and asks for it while it handles the ClientHello. So for a ticket of an earlier key,
 * that key is set just for the tick in which Node reads the ClientHello, which is looked at before the server gets the connection. A new
 * ticket is encrypted later in the handshake, with the newest key.
 *
 * Does not interfere with servers that were created with `ticketKeys`, nor, once the app has called it, with `setTicketKeys()`. Servers that
 * ask for client certificates keep keys of their own: a session that began in a version that does not ask for one must not resume there,
 * because Node takes a client that resumes for authorized.
 */
export class TlsSessions {
  readonly #server: Server
  readonly #service: string
  readonly #setTicketKeys: (key: Buffer) => void
  /** The newest first. None: the server's own. */
  #keys: readonly Buffer[] = []
  /** The app has set its own. */
  #own = false

  /** @returns undefined for a server that does not share its sessions */
  static of(server: AttachableServer, service: string, overlay: Overlay): TlsSessions | undefined {
    return server instanceof Server && mayShare(server)
      ? new TlsSessions(server, service, overlay)
      : undefined
  }

  private constructor(server: Server, service: string, overlay: Overlay) {
    this.#server = server
    this.#service = service
    const setTicketKeys = server.setTicketKeys.bind(server)
    this.#setTicketKeys = setTicketKeys
    overlay.method('setTicketKeys', setTicketKeys, (keys) => {
      this.#own = true
      setTicketKeys(keys)
    })
    const setSecureContext = server.setSecureContext.bind(server)
    // A certificate that is renewed in place: Node makes a new context, with random keys.
    overlay.method('setSecureContext', setSecureContext, (options: SecureContextOptions) => {
      setSecureContext(options)
      this.#apply()
    })
  }

  /** Uses these keys from now on, in base64: the first for new tickets. */
  use(keys: readonly string[]): void {
    this.#keys = keys.map((key) => Buffer.from(key, 'base64'))
    this.#apply()
  }

  /** The broker gives no keys any more: it renews none of those that it has given. */
  forget(): void {
    if (this.#keys.length === 0) return
    this.#keys = []
    if (this.#shares) this.#setTicketKeys(randomBytes(TICKET_KEY_LENGTH))
  }

  /**
   * Gives the server a connection as soon as it is known which key it needs. Runs in the same asynchronous context.
   *
   * @returns false if it needs none but the newest: the caller gives it
   */
  give(socket: Socket): boolean {
    // A relay is paused after its header, and not looked at.
    if (this.#keys.length < 2 || !this.#shares || socket.isPaused()) return false
    const chunks: Buffer[] = []
    const stop = () => {
      clearTimeout(late)
      socket.removeListener('readable', read).removeListener('end', left).removeListener('error', ignoreError)
    }
    const give = AsyncResource.bind(() => {
      stop()
      const hello = Buffer.concat(chunks)
      if (hello.length > 0) socket.unshift(hello)
      this.#emit(socket, this.#keyOf(hello))
    })
    const read = () => {
      for (let chunk; (chunk = socket.read() as Buffer | null) !== null;) chunks.push(chunk)
      if (chunks.length > 0 && isWholeHello(Buffer.concat(chunks))) give()
    }
    const left = () => socket.destroy()
    const late = setTimeout(give, HELLO_TIMEOUT_MS)
    late.unref()
    socket.on('readable', read).on('end', left).on('error', ignoreError).once('close', stop)
    return true
  }

  get #shares(): boolean {
    return !this.#own && mayShare(this.#server)
  }

  #apply(): void {
    const [newest] = this.#keys
    if (newest === undefined || !this.#shares) return
    this.#setTicketKeys(newest)
    shareSessionIdContext(this.#server, this.#service)
  }

  /** The key of the ticket in a ClientHello, if it is not the newest. */
  #keyOf(hello: Buffer): Buffer | undefined {
    return this.#keys.slice(1).find((key) => hello.includes(key.subarray(0, NAME_LENGTH)))
  }

  /** Node reads what the socket holds on the next tick after `connection`, and the callbacks of ticks run in order. */
  #emit(socket: Socket, key: Buffer | undefined): void {
    if (key === undefined) return void this.#server.emit('connection', socket)
    const set = (next: Buffer | undefined) => {
      if (next !== undefined && this.#shares) this.#setTicketKeys(next)
    }
    process.nextTick(() => set(key))
    this.#server.emit('connection', socket)
    process.nextTick(() => set(this.#keys[0]))
  }
}

/** `requestCert` and `ticketKeys`: undocumented members with the server's options, the same in Node 20.18, 22, 24 and 26. */
function mayShare(server: Server): boolean {
  return Reflect.get(server, 'requestCert') === false && Reflect.get(server, 'ticketKeys') === undefined
}

/** The `close` that follows is what counts. */
function ignoreError(): void {}
