import { Socket } from 'node:net'
import type { ResumedBlock } from '../protocol/index.ts'
import { MigrationError } from './errors.ts'
import { endOfHead, sameFraming, statusOf } from './http-heads.ts'
import { mute } from './socket-state.ts'

/** How long the app may take from the replayed request to `resume`, in ms: it may have to look a session up. */
export const RESUME_TIMEOUT_MS = 10_000

/** A client that does not close its side is cut after this time, in ms. */
const CLOSE_TIMEOUT_MS = 1000

/** Close frame of a server (RFC 6455): 1012, service restart. */
const SERVICE_RESTART = Buffer.from([0x88, 2, 0x03, 0xf4])

const EMPTY = Buffer.alloc(0)

/**
 * A request that another process has answered is read and answered once more here, so that this process's server, routes,
 * authentication and libraries have it as on the first day. The client must see none of that:
 *
 *     answering --head of the answer is the same--> answered --the app has resumed--> over
 *         \------ it differs, resume failed, or neither comes in time -------------> failed
 *
 * What the client has sent since waits until it is over, and in its order, whatever the app calls: an app may not listen before,
 * and must not get a message of a connection whose state it does not have.
 */
export class Replay {
  readonly block: ResumedBlock
  readonly #socket: Socket
  readonly #onFailed: (error: MigrationError) => void
  /** Called when the app has answered as the process before had. */
  onAnswered: () => void = () => undefined
  readonly #timeout: NodeJS.Timeout
  #state: 'answering' | 'answered' | 'over' | 'failed' = 'answering'
  #seen: Buffer = EMPTY
  /** The app has resumed; whether its reading is paused by itself. */
  #resumed: (() => boolean) | undefined
  #held = false
  readonly #layers: (() => void)[] = []
  /** The last call of the app, while nothing could be read, was `pause`. */
  #paused = false

  /** Owns the reading and writing of `socket`, which no server has yet, until it is over. */
  constructor(socket: Socket, block: ResumedBlock, onFailed: (error: MigrationError) => void) {
    this.#socket = socket
    this.block = block
    this.#onFailed = onFailed
    this.#timeout = setTimeout(
      () => this.fail(new MigrationError('BATON_ERR_RESUME_FAILED', `not within ${RESUME_TIMEOUT_MS} ms`)),
      RESUME_TIMEOUT_MS,
    )
    this.#timeout.unref()
    socket.once('close', () => clearTimeout(this.#timeout))
    this.#layAnswer('write')
    this.#layAnswer('end')
    socket.unshift(block.requestHead)
  }

  /** The app has not answered yet. */
  get awaitsAnswer(): boolean {
    return this.#state === 'answering'
  }

  /** The client is served like any other. */
  get isOver(): boolean {
    return this.#state === 'over'
  }

  get hasFailed(): boolean {
    return this.#state === 'failed'
  }

  /** The server has parsed the request: nothing behind it may be read yet. */
  hold(): void {
    if (this.#held || this.#state === 'over' || this.#state === 'failed') return
    this.#held = true
    const socket = this.#socket
    socket.pause()
    const { prefix } = this.block
    // In front of what Node has read since, or will read.
    if (prefix.length > 0) socket.unshift(prefix)
    // Whatever starts a stream calls one of these: `on('data')`, `pipe()`, an iterator.
    this.#layUnlessOver('pause', () => {
      this.#paused = true
      return socket
    })
    this.#layUnlessOver('resume', () => {
      this.#paused = false
      return socket
    })
    this.#layUnlessOver('read', () => null)
  }

  /**
   * The app has taken the connection up.
   *
   * @param isPaused whether the app itself has paused it
   */
  resumed(isPaused: () => boolean): void {
    this.#resumed = isPaused
    this.#release()
  }

  /** The client is told to come again: by close code 1012 on a WebSocket, by the end on others. */
  fail(error: MigrationError): void {
    if (this.#state === 'over' || this.#state === 'failed') return
    this.#state = 'failed'
    clearTimeout(this.#timeout)
    const socket = this.#socket
    for (const remove of this.#layers.splice(0)) remove()
    if (socket.destroyed) return
    const webSocket = statusOf(this.block.answerHead) === '101'
    Socket.prototype.end.call(socket, webSocket ? SERVICE_RESTART : EMPTY)
    mute(socket)
    // A close with unread bytes is a reset, which could overtake the frame.
    socket.removeAllListeners('data').removeAllListeners('readable')
    socket.on('data', () => undefined).resume()
    socket.once('end', () => socket.destroy())
    setTimeout(() => socket.destroy(), CLOSE_TIMEOUT_MS).unref()
    this.#onFailed(error)
  }

  #release(): void {
    if (this.#state !== 'answered' || this.#resumed === undefined) return
    this.hold()
    this.#state = 'over'
    clearTimeout(this.#timeout)
    for (const remove of this.#layers.splice(0)) remove()
    const socket = this.#socket
    if (this.#paused || this.#resumed()) return
    socket.resume()
    // The app may have been told before, and found nothing.
    if (socket.listenerCount('readable') > 0) socket.emit('readable')
  }

  #layUnlessOver(name: 'pause' | 'resume' | 'read', layer: () => unknown): void {
    const socket = this.#socket
    const value = (...args: unknown[]): unknown =>
      this.#state === 'answering' || this.#state === 'answered'
        ? layer()
        : Reflect.apply(Socket.prototype[name], socket, args)
    Object.defineProperty(socket, name, { value, configurable: true, writable: true })
    this.#layers.push(() => {
      // Another library may have put its own over it, which calls this one.
      if (Reflect.get(socket, name) === value) Reflect.deleteProperty(socket, name)
    })
  }

  /** @returns what of these bytes the client has not had */
  #swallow(bytes: Buffer): Buffer {
    this.#seen = this.#seen.length === 0 ? bytes : Buffer.concat([this.#seen, bytes])
    const end = endOfHead(this.#seen)
    if (end === -1) return EMPTY
    const head = this.#seen.subarray(0, end)
    const rest = this.#seen.subarray(end)
    this.#seen = EMPTY
    Reflect.deleteProperty(this.#socket, 'write')
    Reflect.deleteProperty(this.#socket, 'end')
    if (!sameFraming(head, this.block.answerHead)) {
      const [now, before] = [head, this.block.answerHead].map((each) => statusOf(each) ?? 'none')
      this.fail(
        new MigrationError(
          'BATON_ERR_ANSWER_DIFFERS',
          now === before ? 'its fields' : `${now}, not ${before}`,
        ),
      )
      return EMPTY
    }
    this.#state = 'answered'
    this.onAnswered()
    this.#release()
    return rest
  }

  #layAnswer(name: 'write' | 'end'): void {
    const layer = (...args: unknown[]): unknown => {
      const callback = args.find((each) => typeof each === 'function')
      const [chunk, encoding] = args
      const rest = this.#swallow(bytesOf(chunk, encoding))
      if (name === 'end' && this.#state === 'answering')
        this.fail(new MigrationError('BATON_ERR_ANSWER_DIFFERS', 'it ended without one'))
      if (this.#state !== 'failed' && (rest.length > 0 || name === 'end'))
        return Reflect.apply(Socket.prototype[name], this.#socket, [rest, ...(callback ? [callback] : [])])
      if (callback !== undefined) process.nextTick(callback)
      return name === 'write' ? true : this.#socket
    }
    Object.defineProperty(this.#socket, name, { value: layer, configurable: true, writable: true })
  }
}

function bytesOf(chunk: unknown, encoding: unknown): Buffer {
  if (typeof chunk === 'string')
    return Buffer.from(chunk, typeof encoding === 'string' ? (encoding as BufferEncoding) : 'utf8')
  if (chunk instanceof Uint8Array) return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
  return EMPTY
}
