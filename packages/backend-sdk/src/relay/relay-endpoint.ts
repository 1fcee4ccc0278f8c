import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
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

/** So many may be connected whose header has not come; more are closed at once. */
const MOST_STRANGERS = 256

/**
 * Where the broker dials when it cannot pass a descriptor: a Unix socket in a folder of its own, one for each
 * registration. Whoever can reach it must show a token that came over control; until then the app sees nothing.
 */
export class RelayEndpoint {
  readonly path: string
  readonly #folder: string
  readonly #server: Server
  readonly #strangers = new Set<Socket>()
  readonly #patience: number
  #onArrival: (relay: IncomingRelay) => void = ({ socket }) => void socket.destroy()

  /**
   * @param shared the broker runs as another user: everybody may connect, and the token decides
   * @param patience milliseconds within which the header must be whole
   */
  static async open(shared: boolean, patience: number): Promise<RelayEndpoint> {
    const endpoint = new RelayEndpoint(shared, patience)
    await new Promise<void>((resolve, reject) => {
      endpoint.#server.once('error', reject)
      endpoint.#server.listen({ path: endpoint.path, readableAll: shared, writableAll: shared }, resolve)
    }).catch((error: unknown) => {
      endpoint.close()
      throw error
    })
    // The control connection keeps the process alive for as long as it is registered.
    endpoint.#server.unref()
    return endpoint
  }

  private constructor(shared: boolean, patience: number) {
    this.#patience = patience
    this.#folder = mkdtempSync(join(tmpdir(), 'baton-relay-'))
    if (shared) chmodSync(this.#folder, 0o711)
    this.path = join(this.#folder, 'relay.sock')
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#meet(socket))
  }

  onArrival(listener: (relay: IncomingRelay) => void): void {
    this.#onArrival = listener
  }

  /** No more relays; those that were handed on live on. */
  close(): void {
    this.#server.close()
    for (const stranger of this.#strangers) stranger.destroy()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  #meet(socket: Socket): void {
    if (this.#strangers.size >= MOST_STRANGERS) return void socket.destroy()
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
