import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { WebSocket } from 'ws'
import type { ConnectionInfo } from '../connection-info.ts'
import { DEFLATE, WINDOW_FIELD, windowOf } from './carried-window.ts'
import { withOwnField } from './http-heads.ts'
import type { InflateWindow } from './inflate-window.ts'
import { canBeLeft, mute, takeUnread } from './socket-state.ts'
import type { Upgrade } from './upgrade.ts'

const OPEN = 1

/** An open connection of `ws`: whether all that came was reported to its listeners, and all that was sent has left. */
export class LiveWebSocket {
  readonly ws: WebSocket
  readonly socket: Socket
  readonly request: IncomingMessage
  readonly connection: ConnectionInfo
  readonly upgrade: Upgrade
  /** It could not leave when that was tried last. */
  waits = false
  /** The bytes that the client's deflater may refer to. Undefined without context takeover. */
  readonly #window: InflateWindow | undefined
  /** Reported to the listeners. */
  #messages = 0
  #controls = 0
  /** `ws.send()` has not called back; counted only where a message can be on its way without a byte to show for it. */
  #sending = 0
  /** The content of its window is not known. */
  #unknown = false

  /**
   * `ws` has just been opened, and has no other listener yet.
   *
   * @param onReported called when something was reported that may have been missing before
   */
  constructor(
    ws: WebSocket,
    request: IncomingMessage,
    connection: ConnectionInfo,
    upgrade: Upgrade,
    onReported: () => void,
  ) {
    this.ws = ws
    this.socket = request.socket
    this.request = request
    this.connection = connection
    this.upgrade = upgrade
    this.#window = windowOf(upgrade, upgrade.replay)
    if (this.#window !== undefined) upgrade.tracksCompression = true
    if (ws.extensions !== '') this.#countSends()
    ws.on('message', (data: unknown) => {
      this.#messages += 1
      this.#remember(data)
      onReported()
    })
    const control = () => {
      this.#controls += 1
      onReported()
    }
    ws.on('ping', control).on('pong', control)
  }

  /** All that has come was reported, and all that was sent is in the kernel. */
  get isStill(): boolean {
    const { ws, socket, upgrade } = this
    const { walker, replay, answerHead } = upgrade
    if (replay !== undefined && !replay.isOver) return false
    if (this.#unknown || !(ws.extensions === '' || ws.extensions === DEFLATE)) return false
    if (ws.readyState !== OPEN || ws.bufferedAmount > 0 || this.#sending > 0) return false
    // Otherwise inflating still runs, or it was a close frame.
    if (walker.messages !== this.#messages || walker.controls !== this.#controls || walker.tooLong)
      return false
    return answerHead !== undefined && canBeLeft(socket)
  }

  /** The head of the answer, with what the next process needs for its inflater. */
  get answerHead(): Buffer {
    const answerHead = this.upgrade.answerHead as Buffer
    return this.#window === undefined
      ? answerHead
      : withOwnField(answerHead, WINDOW_FIELD, this.#window.bytes().toString('base64'))
  }

  /** Bytes that were read, and belong to no message that was reported. */
  get prefixLength(): number {
    return this.upgrade.walker.tailLength + this.socket.readableLength
  }

  /** @returns whether nothing was written, read or closed since now */
  unchanged(): () => boolean {
    const { prefixLength } = this
    const { bytesWritten } = this.socket
    return () =>
      this.isStill && this.socket.bytesWritten === bytesWritten && this.prefixLength === prefixLength
  }

  /** Takes all hands off the socket: what is written to it from now on goes nowhere. */
  leave(): { prefix: Buffer; listeners: ReturnType<Socket['listeners']> } {
    const { socket, upgrade } = this
    const { unread, listeners } = takeUnread(socket)
    mute(socket)
    return {
      prefix: Buffer.concat([upgrade.walker.tail(), unread]),
      listeners: listeners.filter((each) => !upgrade.isWalk(each)),
    }
  }

  #remember(data: unknown): void {
    const window = this.#window
    if (window === undefined || this.upgrade.compressed.shift() !== true) return
    const parts: unknown[] = Array.isArray(data) ? data : [data]
    for (const part of parts) {
      if (part instanceof ArrayBuffer) window.add(Buffer.from(part))
      else if (Buffer.isBuffer(part)) window.add(part)
      // A Blob cannot be read in this step.
      else this.#unknown = true
    }
  }

  /** `ws` deflates asynchronously, and `bufferedAmount` does not show an empty message (8.23). */
  #countSends(): void {
    const { ws } = this
    const below = ws.send.bind(ws) as (...args: unknown[]) => void
    ws.send = (data: unknown, options?: unknown, callback?: unknown): void => {
      // By position, as `ws` does: a caller may pass on an option or a callback that it does not have.
      const [given, rest] = typeof options === 'function' ? [options, undefined] : [callback, options]
      this.#sending += 1
      const over = (error?: Error) => {
        this.#sending -= 1
        if (typeof given === 'function') given(error)
      }
      try {
        below(data, rest, over)
      } catch (error) {
        this.#sending -= 1
        throw error
      }
    }
  }
}
