import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'
import { type AttachableServer, type Attachment, attachServer } from '../src/attach/index.ts'

/** A server that gets its connections from a listener in front of it. */
export interface Front {
  readonly attachment: Attachment
  readonly port: number
  /** How often the server's owner was notified that the app closed it. */
  readonly closes: () => number
  /** The raw sockets handed over, in order of arrival. */
  readonly sockets: Socket[]
  /** Resolves once the connection has been handed over. */
  dial(): Promise<Client>
}

/**
 * Replaces the broker: accepts, reads nothing, and hands the socket over.
 *
 * @param service whose processes share TLS sessions; undefined: they do not
 */
export async function front(t: Test, server: AttachableServer, service?: string): Promise<Front> {
  let closes = 0
  const shared = service === undefined ? undefined : { tlsSessions: true, service }
  const attachment = attachServer(server, { onServerClose: () => (closes += 1) }, shared)
  const sockets: Socket[] = []
  const ports = new Set<number | undefined>()
  const listener = createServer({ allowHalfOpen: attachment.allowHalfOpen }, (socket) => {
    sockets.push(socket)
    ports.add(socket.remotePort)
    attachment.adopt(socket)
  })
  const port = await listen(t, listener)
  t.teardown(async () => {
    attachment.destroyAll()
    await attachment.whenEmpty()
    attachment.detach()
    server.close()
  })
  return {
    attachment,
    port,
    closes: () => closes,
    sockets,
    dial: async () => {
      const client = await dial(t, port)
      const { localPort } = client.socket
      while (!ports.has(localPort)) await once(listener, 'connection')
      return client
    },
  }
}

export async function listen(t: Test, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return (server.address() as AddressInfo).port
}

/** A client with access to the raw bytes. */
export class Client {
  readonly socket: Socket
  #received = ''

  constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => (this.#received += chunk))
    // A server that cuts a connection may reset it; the tests check what came before.
    socket.on('error', () => {})
  }

  get received(): string {
    return this.#received
  }

  write(bytes: string): void {
    this.socket.write(bytes, 'latin1')
  }

  get(path: string, version = '1.1', headers = ''): void {
    this.write(`GET ${path} HTTP/${version}\r\nHost: a\r\n${headers}\r\n`)
  }

  /** Resolves once the pattern matches the received text; rejects if the connection ends first. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.#received)) {
      if (this.socket.closed) throw new Error(`closed before ${pattern}: ${JSON.stringify(this.#received)}`)
      await new Promise<void>((resolve) => {
        const go = () => {
          this.socket.off('data', go).off('close', go)
          resolve()
        }
        this.socket.on('data', go).on('close', go)
      })
    }
    return this.#received
  }

  /** Everything received until the server closed the connection. */
  async ended(): Promise<string> {
    if (!this.socket.closed) await once(this.socket, 'close')
    return this.#received
  }
}

export async function dial(t: Test, port: number): Promise<Client> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return new Client(socket)
}

/** A promise, and the function that resolves it. */
export function gate(): { opened: Promise<void>; open(): void } {
  let open!: () => void
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return { opened, open }
}
