import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { MAX_HANDBACK_BYTES } from '../protocol/index.ts'
import { recordAnswerHead } from './answer-head.ts'
import { FrameWalker } from './frame-walker.ts'
import { requestHead } from './http-heads.ts'
import type { Replay } from './replay.ts'

/**
 * The record of a connection that a client upgrades, from before the app gets it: the request, the head of the answer, and where
 * the client's frames begin and end.
 */
export class Upgrade {
  readonly request: IncomingMessage
  readonly walker: FrameWalker
  /** How this process came by the connection; undefined if it began here. */
  readonly replay: Replay | undefined
  /** Of each message that is complete, and not reported yet: whether it was compressed. Kept while `tracksCompression`. */
  readonly compressed: boolean[] = []
  tracksCompression = false
  readonly #url: string | undefined
  #answerHead: Buffer | undefined
  #walk: ((chunk: Buffer) => void) | undefined

  /** `request` has just been parsed, and the app has not seen it. */
  constructor(request: IncomingMessage, socket: Socket, replay: Replay | undefined) {
    this.request = request
    // Apps and routers rewrite it.
    this.#url = request.url
    this.replay = replay
    this.#answerHead = replay?.block.answerHead
    this.walker = new FrameWalker(MAX_HANDBACK_BYTES, (compressed) => {
      if (this.tracksCompression) this.compressed.push(compressed)
    })
    replay?.hold()
    if (replay === undefined) recordAnswerHead(socket, (head) => (this.#answerHead = head))
    this.#walkWith(socket)
  }

  /** Undefined until the answer has begun. */
  get answerHead(): Buffer | undefined {
    return this.#answerHead
  }

  get requestHead(): Buffer {
    const { method, httpVersion, rawHeaders } = this.request
    return requestHead({ method, url: this.#url, httpVersion, rawHeaders })
  }

  /** Whether this listener of `data` is the walker's. */
  isWalk(listener: unknown): boolean {
    return listener === this.#walk
  }

  /** In front of the app's first listener, so that both get the same bytes. */
  #walkWith(socket: Socket): void {
    const first = (event: string | symbol) => {
      if (event !== 'data') return
      socket.removeListener('newListener', first)
      this.#walk = (chunk) => this.walker.feed(chunk)
      socket.on('data', this.#walk)
    }
    socket.on('newListener', first)
  }
}
