import { FrameDecoder } from '../protocol/decoder.ts'
import { encodeFrame, encodeWhole } from '../protocol/encoder.ts'
import { ProtocolError } from '../protocol/errors.ts'
import { type Frame, POST_WELCOME_LIMIT, PRE_WELCOME_LIMIT } from '../protocol/frames.ts'
import type { FrameOrder } from '../protocol/order.ts'
import type { ControlSocket, ControlStream } from './control-stream.ts'

/** How a control connection ended, and the last frames it delivered. */
export interface ControlEnd {
  /** `peer`: the other side died or closed it, and it was read to EOF. `local`: this side stopped first, without seeing EOF. */
  readonly by: 'peer' | 'local'
  /** Set if the peer broke the protocol or the socket failed. */
  readonly error: Error | undefined
  /** Whole frames that were still in the kernel's buffer. An incomplete one counts as absent. */
  readonly frames: readonly Frame[]
}

export interface ControlHandlers {
  /** The whole frames of one read, in order; each was allowed by the protocol at its position. */
  frames(frames: readonly Frame[]): void
  /**
   * Called exactly once, when nothing more can be read or written. Control is still open: the peer sees its end only after
   * `close()`, which the owner calls once everything that this end implies is true (I3).
   */
  ended(end: ControlEnd): void
}

/** More than both kernel buffers of a Unix socket can hold, so that the end of control is always read completely. */
const MAX_UNREAD = 8 * 1024 * 1024

/**
 * The framed control connection, used by the broker and the SDK.
 *
 * libuv reads and writes it through a `net.Socket`, which discards unread input when a write fails. So a duplicate of the
 * descriptor is kept, and after 'close' it is read to the end before ownership of any connection is decided. The connection is
 * closed once both copies are.
 */
export class ControlConnection {
  readonly #stream: ControlStream
  readonly #socket: ControlSocket
  readonly #decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
  readonly #order: FrameOrder
  readonly #handlers: ControlHandlers
  #fault: Error | undefined
  #peerEnded = false

  /** Takes ownership of `stream`. `order` may have checked frames before (the SDK receives WELCOME with recvmsg). */
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

  /** Bytes are waiting to be written. Until they are, nothing may be sent on the lane. */
  get backedUp(): boolean {
    return this.#socket.writableLength > 0
  }

  get writable(): boolean {
    return !this.#socket.destroyed && this.#socket.errored === null
  }

  /** WELCOME was sent or received: frames of up to 1 MiB are allowed from now on. */
  welcomed(): void {
    this.#decoder.setLimit(POST_WELCOME_LIMIT)
  }

  /**
   * Writes one frame, or as many as a batch needs. True: it is in the kernel's buffer, and a peer that reads to the end receives it even if this process dies
   * now. False: not known yet; `onTaken` is called once it is, or with an error if it never will be.
   */
  write(frame: Frame, onTaken?: (error: Error | undefined) => void): boolean {
    const socket = this.#socket
    if (!this.writable) {
      if (onTaken) this.#stream.soon(() => onTaken(this.#fault ?? new Error('control connection has ended')))
      return false
    }
    let settled = false
    socket.write(encodeWhole(frame), (error) => {
      if (settled) return
      // A write that libuv still held when the socket was destroyed is cancelled, and Node reports no error for it.
      onTaken?.(error ?? (socket.destroyed ? new Error('control connection has ended') : undefined))
    })
    // After EPIPE the length is 0 too, hence the second condition.
    // Rule: ACK_BEFORE_TOUCH (docs/internals/model)
    settled = socket.writableLength === 0 && socket.errored === null
    return settled
  }

  /** Sends WELCOME with its descriptor, which the caller keeps. Must be the first write. */
  writeWithDescriptor(frame: Frame, descriptor: number): void {
    this.#stream.sendWithDescriptor(encodeFrame(frame), descriptor)
  }

  /** Stops reading and writing. `ended` follows, and the owner must still call `close()`. */
  cutOff(error?: Error): void {
    this.#fault ??= error
    this.#socket.destroy()
  }

  /** As `cutOff`, but only after all written frames are in the kernel. */
  finish(): void {
    this.#socket.end(() => this.#socket.destroy())
  }

  /** Closes the last copy, so that the peer sees the end of control and may rely on what it implies. Idempotent. */
  close(): void {
    this.#socket.destroy()
    this.#stream.close()
  }

  #read(chunk: Buffer): void {
    const { frames, fault } = this.#decode(chunk)
    try {
      if (frames.length > 0) this.#handlers.frames(frames)
    } catch (error) {
      // An internal error left this connection in an unknown state. Close it, and only it.
      this.cutOff(error as Error)
    }
    if (fault) this.cutOff(fault)
  }

  /** Whole frames up to the first fault, if there is one. Those before it are valid and must be handled. */
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
