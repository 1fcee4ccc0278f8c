import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { field, requestHead, statusOf } from './http-heads.ts'
import { canBeLeft } from './socket-state.ts'

/** A request of an adopted connection, and its answer while that is open. */
export class OpenAnswer {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly socket: Socket
  /** Undefined until it was written. */
  head: Buffer | undefined
  readonly #url: string | undefined
  /** Whether `head` is that of an answer that another process can go on with, once that was looked at. */
  #canGoOn: boolean | undefined

  /** `request` has just been parsed, and the app has not seen it. */
  constructor(request: IncomingMessage, response: ServerResponse) {
    this.request = request
    this.response = response
    this.socket = request.socket
    // Apps and routers rewrite it.
    this.#url = request.url
  }

  get requestHead(): Buffer {
    const { method, httpVersion, rawHeaders } = this.request
    return requestHead({ method, url: this.#url, httpVersion, rawHeaders })
  }

  /** The head and all that the app has written is in the kernel, and there is more to come. */
  get isStill(): boolean {
    const { request, response, socket, head } = this
    if (head === undefined || !request.complete || !canBeLeft(socket)) return false
    // Node 26 keeps what is written in one tick in the response; `cork()` does so on every line.
    if (response.writableEnded || response.destroyed || response.writableLength > 0) return false
    if (response.writableCorked > 0) return false
    return (this.#canGoOn ??= hasNoBody(request) && isUnbounded(head))
  }

  /** @returns whether nothing was written, read or closed since now */
  unchanged(): () => boolean {
    const { bytesWritten, bytesRead, readableLength } = this.socket
    return () =>
      this.isStill &&
      this.socket.bytesWritten === bytesWritten &&
      this.socket.bytesRead === bytesRead &&
      this.socket.readableLength === readableLength
  }
}

/** The head is all of the request. One with `Expect` has had an answer before this one. */
function hasNoBody({ headers }: IncomingMessage): boolean {
  const { 'content-length': length = '0', 'transfer-encoding': coding, expect } = headers
  return /^0+$/.test(length) && coding === undefined && expect === undefined
}

/**
 * The answer goes on until it is ended, by its last chunk or by the connection. A process that goes on with one that has a length would have to know
 * how much of it is left, and with one that is compressed, what the compressor knows.
 */
function isUnbounded(head: Buffer): boolean {
  if (statusOf(head)?.startsWith('2') !== true) return false
  const coding = field(head, 'transfer-encoding')
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') return false
  if (field(head, 'content-length') !== undefined) return false
  return (field(head, 'content-encoding') ?? 'identity').toLowerCase() === 'identity'
}
