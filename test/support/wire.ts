import { type Frame, FrameDecoder, encodeFrame, POST_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'
import {
  EPOLLIN,
  NativeError,
  type OwnedFd,
  readToEnd,
  send,
  sharedPoller,
  type Watch,
} from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'

type FrameOf<T extends Frame['type']> = Extract<Frame, { type: T }>

/**
 * One end of a control connection, controlled by the test: writes any bytes, and reads only when told to. Unread
 * bytes fill the kernel's buffer, as with a peer whose event loop is stuck.
 */
export class Wire {
  readonly fd: OwnedFd
  /** Everything read so far, with its time by performance.now(). */
  readonly frames: { frame: Frame; at: number }[] = []
  /** The peer has closed. */
  ended = false
  /** Answers probes, so that the broker does not take this backend for a stuck one. */
  answersProbes = false
  readonly #decoder = new FrameDecoder({ limit: POST_WELCOME_LIMIT })
  #watch: Watch | undefined

  /** Takes ownership of `fd`. */
  constructor(t: Test, fd: OwnedFd) {
    this.fd = fd
    t.teardown(() => this.close())
  }

  /** Starts reading, until `pause`. */
  read(): this {
    this.#watch ??= sharedPoller().add(this.fd.fd, EPOLLIN, () => {
      const { data, ended } = readToEnd(this.fd.fd)
      const at = performance.now()
      for (const frame of this.#decoder.push(data)) {
        this.frames.push({ frame, at })
        if (frame.type === 'heartbeat' && !frame.reply && !ended) this.#answer(frame)
      }
      if (!ended) return
      this.ended = true
      this.pause()
    })
    return this
  }

  pause(): void {
    this.#watch?.remove()
    this.#watch = undefined
  }

  /** Sends frames, or any bytes, all in one write. */
  write(...parts: (Frame | Buffer)[]): void {
    const bytes = Buffer.concat(parts.map((part) => (Buffer.isBuffer(part) ? part : encodeFrame(part))))
    const sent = send(this.fd.fd, bytes)
    if (sent !== bytes.length) throw new Error(`the kernel took ${sent} of ${bytes.length} bytes`)
  }

  #answer(probe: FrameOf<'heartbeat'>): void {
    if (!this.answersProbes) return
    try {
      this.write({ ...probe, reply: true })
    } catch (error) {
      // The peer has closed meanwhile; the end is read next.
      if (!(error instanceof NativeError)) throw error
    }
  }

  all<T extends Frame['type']>(type: T): FrameOf<T>[] {
    return this.frames.map(({ frame }) => frame).filter((frame): frame is FrameOf<T> => frame.type === type)
  }

  /** The first frame of this type that `matches`, past or future. */
  async frame<T extends Frame['type']>(
    type: T,
    matches: (frame: FrameOf<T>) => boolean = () => true,
  ): Promise<FrameOf<T>> {
    let found: FrameOf<T> | undefined
    await eventually(
      () => (found = this.all(type).find((frame) => matches(frame))) !== undefined,
      () => `a matching ${type} frame; there came ${this.frames.map(({ frame }) => frame.type).join(', ')}`,
    )
    return found as FrameOf<T>
  }

  /** Resolves after `count` more frames of this type. */
  async more(type: Frame['type'], count: number): Promise<void> {
    const wanted = this.all(type).length + count
    await eventually(() => this.all(type).length >= wanted, `${count} more ${type} frames`)
  }

  async end(): Promise<void> {
    await eventually(() => this.ended, 'the end of the control connection')
  }

  /** May be called twice. */
  close(): void {
    this.pause()
    this.fd.close()
  }
}
