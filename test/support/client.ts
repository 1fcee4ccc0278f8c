import { once } from 'node:events'
import { connect, type NetConnectOpts, type Socket } from 'node:net'
import type { Test } from 'tap'

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** How a connection ended from the client's point of view: `end` is a FIN, anything else the errno (`ECONNRESET`). */
export type End = string

/**
 * One client connection without an HTTP library: it sends exactly what the test writes, retries nothing, and
 * reports the end of the connection as reliably as a response. Supports only responses with a
 * `Content-Length`.
 */
export class Client {
  readonly socket: Socket
  readonly ended: Promise<End>
  #received = ''
  #end: End | undefined
  readonly #waiting = new Set<() => void>()

  constructor(t: Test, options: NetConnectOpts) {
    this.socket = connect({ noDelay: true, ...options, allowHalfOpen: true })
    this.socket.setEncoding('latin1')
    this.socket.on('data', (chunk: string) => {
      this.#received += chunk
      this.#wake()
    })
    this.ended = new Promise((resolve) => {
      const finish = (end: End) => {
        this.#end ??= end
        this.socket.destroy()
        this.#wake()
        resolve(this.#end)
      }
      this.socket.on('end', () => finish('end'))
      this.socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code ?? error.message))
      this.socket.on('close', () => finish('closed'))
    })
    t.teardown(() => this.socket.destroy())
  }

  /** Resolves once the connection is established. */
  static async open(t: Test, options: NetConnectOpts): Promise<Client> {
    const client = new Client(t, options)
    await once(client.socket, 'connect')
    return client
  }

  /** The local port. */
  get port(): number {
    return this.socket.localPort as number
  }

  get open(): boolean {
    return this.#end === undefined
  }

  /** Received bytes that were not consumed yet. */
  get received(): string {
    return this.#received
  }

  send(text: string): void {
    this.socket.write(text)
  }

  /** Sends a GET; `answer()` reads the response. */
  request(path = '/'): void {
    this.send(`GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`)
  }

  async get(path = '/'): Promise<Answer> {
    this.request(path)
    return this.answer()
  }

  /** The next response; rejects if the connection ends before it is complete. */
  async answer(): Promise<Answer> {
    const head = await this.#take('\r\n\r\n')
    const [statusLine = '', ...lines] = head.split('\r\n')
    const headers = Object.fromEntries(
      lines
        .filter((line) => line !== '')
        .map((line) => {
          const colon = line.indexOf(':')
          return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
        }),
    )
    const length = Number(headers['content-length'])
    if (!Number.isInteger(length)) throw new Error(`an answer without Content-Length:\n${head}`)
    await this.#until(() => this.#received.length >= length)
    const body = this.#received.slice(0, length)
    this.#received = this.#received.slice(length)
    return { status: Number(statusLine.split(' ')[1]), headers, body }
  }

  /** The next line, without its line break. */
  async line(): Promise<string> {
    return (await this.#take('\n')).slice(0, -1)
  }

  async #take(delimiter: string): Promise<string> {
    await this.#until(() => this.#received.includes(delimiter))
    const end = this.#received.indexOf(delimiter) + delimiter.length
    const taken = this.#received.slice(0, end)
    this.#received = this.#received.slice(end)
    return taken
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) {
      if (this.#end !== undefined) {
        throw new Error(
          `the connection ended (${this.#end}) after ${JSON.stringify(this.#received.slice(0, 200))}`,
        )
      }
      await new Promise<void>((resolve) => this.#waiting.add(resolve))
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}
