import { FrameDecoder } from '../protocol/decoder.ts'
import { encodeFrame } from '../protocol/encoder.ts'
import { ProtocolError } from '../protocol/errors.ts'
import { type Frame, POST_WELCOME_LIMIT, PRE_WELCOME_LIMIT } from '../protocol/frames.ts'
import type { FrameOrder } from '../protocol/order.ts'
import type { ControlSocket, ControlStream } from './control-stream.ts'

/** How a control connection came to its end, and what its very end still held. */
export interface ControlEnd {
  /** `peer`: the other side is dead or has let go (read to EOF). `local`: we stopped first, and EOF was not seen. */
  readonly by: 'peer' | 'local'
  /** Set when the peer broke the protocol, or when the socket failed. */
  readonly error: Error | undefined
  /** Whole frames that were left in the kernel's buffer; an incomplete one counts as absent. */
  readonly frames: readonly Frame[]
}

export interface ControlHandlers {
  /** The whole frames of one read, in order, checked against the order that the protocol allows. */
  frames(frames: readonly Frame[]): void
  /**
   * Exactly once, when nothing can be read or written any more. Control is not closed yet: the peer sees its end only
   * after `release()`, which the owner calls when everything that this end would state is true (invariant I3).
   */
  ended(end: ControlEnd): void
}

/** More than both kernel buffers of a Unix socket can hold, so that the end of control is always read whole. */
const MAX_UNREAD = 8 * 1024 * 1024

/**
 * The framed control connection, the same on both halves.
 *
 * libuv reads and writes it through a `net.Socket`. That throws away unread input when a write fails, so a duplicate of
 * the descriptor is kept, and after 'close' read to its very end before anybody decides who owns what. The connection
 * is closed when both copies are.
 */
export class ControlConnection {
  readonly #stream: ControlStream
  readonly #socket: ControlSocket
  readonly #decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
  readonly #order: FrameOrder
  readonly #handlers: ControlHandlers
  #fault: Error | undefined
  #peerEnded = false

  /** Owns `stream`. `order` may have seen frames already (the SDK takes WELCOME with recvmsg). */
  constructor(stream: ControlStream, order: FrameOrder, handlers: ControlHandlers) {
    this.#order = order
    this.#handlers = handlers
    this.#stream = stream
    this.#socket = stream.socket
    stream.onData((chunk) => this.#read(chunk))
    this.#socket.on('end', () => {
      this.#peerEnded = true
      this.#socket.destroy()
    })
    this.#socket.on('error', (error) => {
      this.#fault ??= error
    })
    this.#socket.on('close', () => this.#finish())
  }

  /** Bytes wait for the kernel. While they do, nothing may go on the lane. */
  get backedUp(): boolean {
    return this.#socket.writableLength > 0
  }

  get writable(): boolean {
    return !this.#socket.destroyed && this.#socket.errored === null
  }

  /** WELCOME was sent or read: from now on frames may be as long as 1 MiB. */
  welcomed(): void {
    this.#decoder.setLimit(POST_WELCOME_LIMIT)
  }

  /**
   * Writes one frame. True: it is in the kernel's buffer of the connection, and a peer that reads to the end will find
   * it there even if this process dies now. False: not known yet; `onTaken` tells (with an error when it never will).
   */
  write(frame: Frame, onTaken?: (error: Error | undefined) => void): boolean {
    const socket = this.#socket
    if (!this.writable) {
      if (onTaken) process.nextTick(onTaken, this.#fault ?? new Error('control connection has ended'))
      return false
    }
    let settled = false
    socket.write(encodeFrame(frame), (error) => {
      if (!settled) onTaken?.(error ?? undefined)
    })
    // The length is 0 after EPIPE too, hence the second half.
    // Rule: ACK_BEFORE_TOUCH (docs/internals/model)
    settled = socket.writableLength === 0 && socket.errored === null
    return settled
  }

  /** Sends WELCOME with its descriptor. Nothing may have been written before. The caller keeps `descriptor`. */
  writeWithDescriptor(frame: Frame, descriptor: number): void {
    this.#stream.sendWithDescriptor(encodeFrame(frame), descriptor)
  }

  /** Stops reading and writing. `ended` follows; `release()` is still the owner's to call. */
  cutOff(error?: Error): void {
    this.#fault ??= error
    this.#socket.destroy()
  }

  /** Hands the last written frames to the kernel before the connection stops, then as `cutOff`. */
  finish(): void {
    this.#socket.end(() => this.#socket.destroy())
  }

  /** Closes the last copy: from here on the peer may take the end of control for what it states. Harmless twice. */
  close(): void {
    this.#socket.destroy()
    this.#stream.close()
  }

  #read(chunk: Buffer): void {
    const { frames, fault } = this.#decode(chunk)
    try {
      if (frames.length > 0) this.#handlers.frames(frames)
    } catch (error) {
      // A fault of ours in the middle of a frame: nobody knows what was done, and it must cost this connection alone.
      this.cutOff(error as Error)
    }
    if (fault) this.cutOff(fault)
  }

  /** Whole frames up to the first fault, if there is one: what came before it was said in good order and holds. */
  #decode(chunk: Buffer): { frames: readonly Frame[]; fault?: ProtocolError } {
    let fault: ProtocolError | undefined
    let decoded: readonly Frame[] = []
    try {
      decoded = this.#decoder.push(chunk)
    } catch (error) {
      fault = asProtocolError(error)
      decoded = fault.frames
    }
    for (const [index, frame] of decoded.entries()) {
      try {
        this.#order.check(frame)
      } catch (error) {
        return { frames: decoded.slice(0, index), fault: asProtocolError(error) }
      }
    }
    return fault === undefined ? { frames: decoded } : { frames: decoded, fault }
  }

  #finish(): void {
    let by: ControlEnd['by'] = this.#peerEnded ? 'peer' : 'local'
    let frames: readonly Frame[] = []
    if (!(this.#fault instanceof ProtocolError)) {
      try {
        // Rule: READ_CONTROL_TO_END (docs/internals/model)
        const { data, ended } = this.#stream.readToEnd(MAX_UNREAD)
        if (ended) by = 'peer'
        const last = this.#decode(data)
        frames = last.frames
        this.#fault = last.fault ?? this.#fault
      } catch (error) {
        this.#fault ??= error as Error
      }
    }
    this.#handlers.ended({ by, error: this.#fault, frames })
  }
}

function asProtocolError(error: unknown): ProtocolError {
  if (error instanceof ProtocolError) return error
  throw error
}
