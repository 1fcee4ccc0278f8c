import type { Server } from 'node:net'
import { Overlay } from '../attach/overlay.ts'
import type { ListenTarget } from './target.ts'

/**
 * A server between `listen()` and `listening`. Until it is attached, Node has nothing to close, so `close()` is overridden: it cancels
 * the request to the master, and the server closes without having listened.
 */
export class Starting {
  readonly server: Server
  readonly target: ListenTarget
  /** The server has emitted `listening`. */
  told = false
  readonly #overlay: Overlay
  readonly #abort = new AbortController()
  readonly #onEnd: () => void
  readonly #site: unknown

  /**
   * @param onEnd called when the server may listen again: it was closed, or could not listen
   * @param site a stack trace that begins at the app's call of `listen()`
   */
  constructor(server: Server, target: ListenTarget, onEnd: () => void, site?: unknown) {
    this.#site = site
    this.server = server
    this.target = target
    this.#onEnd = onEnd
    const { callback } = target
    if (callback !== undefined) server.once('listening', callback)
    this.#overlay = new Overlay(server)
    const close: (callback?: (error?: Error) => void) => Server = server.close.bind(server)
    this.#overlay.method('close', close, (done?: (error?: Error) => void) => {
      if (typeof done === 'function') server.once('close', () => done())
      this.#abort.abort()
      this.attached()
      process.nextTick(() => server.emit('close'))
      return server
    })
    server.once('close', this.#ended)
    this.#applySignal(target.signal)
  }

  /** Aborted when the app closes the server before it is attached. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Removes the override of `close()`. Must be called right before attaching. */
  attached(): void {
    this.#overlay.remove()
  }

  /** Listening failed. As with Node, `error` is emitted later and thrown if it has no listener, and `listen()` may be called again. */
  fail(error: Error): void {
    this.attached()
    const { server, target } = this
    server.off('close', this.#ended)
    if (target.callback !== undefined) server.off('listening', target.callback)
    this.#ended()
    pointTo(this.#site, error)
    process.nextTick(() => server.emit('error', error))
  }

  readonly #close = (): void => void this.server.close()

  readonly #ended = (): void => {
    this.target.signal?.removeEventListener('abort', this.#close)
    this.#onEnd()
  }

  #applySignal(signal: AbortSignal | undefined): void {
    if (signal?.aborted) process.nextTick(this.#close)
    else signal?.addEventListener('abort', this.#close, { once: true })
  }
}

/** Gives the error the stack of the app's own call, as with Node; the place in this package is of no use to the app. */
function pointTo(site: unknown, error: Error): void {
  // Not a string if the app has replaced `Error.prepareStackTrace`.
  if (typeof site !== 'string') return
  const frames = site.indexOf('\n')
  if (frames !== -1) error.stack = `${error.name}: ${error.message}${site.slice(frames)}`
}
