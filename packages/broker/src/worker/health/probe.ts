import { Socket } from 'node:net'
import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { type OwnedFd, refuseDescriptors, socketpair } from '@baton/native-sendmsg'
import type { ClientConnection, ProbeHost } from '../connection/connection.ts'
import { createConnectionId } from '../connection/connection-id.ts'
import { consequenceOf, type Failure } from '../connection/failure.ts'
import { http } from '../../node-http.ts'
import type { BackendLink } from '../backend/backend-link.ts'

/**
 * The listener name in the OFFER of a check. No configured listener can have this name, so an app can recognise checks by
 * `backend.connection(socket).listener`.
 */
export const PROBE_LISTENER = 'baton:health'

export interface ProbeOptions {
  /** Of the request. */
  readonly path: string
  /** Milliseconds, from the offer to the end of the response. */
  readonly timeout: number
  /** Check over a relay, because the service has handoff off. */
  readonly relay: boolean
}

/** `unknown`: the check could not be made, for a reason that is not the backend's fault. */
export interface Verdict {
  readonly result: 'passed' | 'failed' | 'unknown'
  readonly reason: string
}

/**
 * One check of one backend. Like a client, one end of a socketpair is offered to the backend; once the backend has acknowledged it,
 * the request is sent on the other end. With a relay, the request is sent on the relay's connection.
 *
 * Owns both ends of the pair. The offered end is closed when the link reports its outcome, which can be later than the verdict:
 * until then the link may send it.
 */
export class Probe implements ProbeHost {
  readonly #near: Socket
  readonly #far: OwnedFd
  readonly #options: ProbeOptions
  readonly #clock: Clock
  readonly #timer: Timer
  readonly #onVerdict: (verdict: Verdict) => void
  #upstream: Socket | undefined
  #acknowledged = false
  #over = false

  /**
   * Offers the connection immediately. `onVerdict` is called exactly once unless the probe is cancelled, possibly before this returns.
   *
   * @throws {NativeError} EMFILE, ENFILE
   */
  constructor(
    link: Pick<BackendLink, 'offer' | 'offerRelay'>,
    options: ProbeOptions,
    clock: Clock,
    onVerdict: (verdict: Verdict) => void,
  ) {
    this.#options = options
    this.#clock = clock
    this.#onVerdict = onVerdict
    ;({ near: this.#near, far: this.#far } = openPair())
    this.#timer = clock.setTimeout(() => this.#timedOut(), options.timeout)
    const connection = this.#connection()
    const failure = options.relay ? link.offerRelay(connection) : link.offer([connection])?.failure
    if (failure !== undefined) this.returned(failure)
  }

  /** Whether there is a verdict, or the probe was cancelled. */
  get over(): boolean {
    return this.#over
  }

  /** Whether the link has reported the outcome of the offer. */
  get settled(): boolean {
    return this.#far.closed
  }

  /** Ends the check without a verdict. */
  cancel(): void {
    this.#over = true
    this.#clock.clear(this.#timer)
    this.#near.destroy()
    this.#upstream?.destroy()
  }

  handedOff(): void {
    this.#far.close()
    this.#request(this.#near)
  }

  /** Takes ownership of `upstream`. */
  relayed(upstream: Socket): void {
    this.#far.close()
    this.#near.destroy()
    this.#upstream = upstream
    this.#request(upstream)
  }

  returned({ code }: Failure): void {
    this.#far.close()
    // Pressure and ordinary refusals say nothing about the backend's health, and do not count against it elsewhere either.
    this.#conclude({ result: consequenceOf(code).countsAgainstBackend ? 'failed' : 'unknown', reason: code })
  }

  relinquished(): void {
    this.#far.close()
    this.#conclude({ result: 'failed', reason: 'BackendAckTimeout' })
  }

  #connection(): ClientConnection {
    return {
      order: 0,
      fd: this.#far,
      listener: { name: PROBE_LISTENER, protocol: 'http' },
      peer: { family: 'unix', address: '', port: 0 },
      id: createConnectionId(Date.now()),
      acceptedAt: this.#clock.now(),
      tried: undefined,
      pressedSince: undefined,
      probe: this,
    }
  }

  #request(socket: Socket): void {
    this.#acknowledged = true
    if (this.#over) return void socket.destroy()
    ask(socket, this.#options.path, (answer) => this.#conclude(verdictOn(answer)))
  }

  #timedOut(): void {
    const what = this.#acknowledged ? 'no response' : 'no ACK'
    this.#conclude({ result: 'failed', reason: `${what} within ${this.#options.timeout} ms` })
  }

  #conclude(verdict: Verdict): void {
    if (this.#over) return
    this.cancel()
    this.#onVerdict(verdict)
  }
}

function verdictOn(answer: Answer): Verdict {
  if ('error' in answer) return { result: 'failed', reason: answer.error }
  const { status } = answer
  return { result: status >= 200 && status < 400 ? 'passed' : 'failed', reason: `status ${status}` }
}

/** The caller owns both ends. */
function openPair(): { near: Socket; far: OwnedFd } {
  const [near, far] = socketpair('stream')
  try {
    refuseDescriptors(near.fd)
    const socket = new Socket({ fd: near.fd })
    near.release()
    return { near: socket, far }
  } catch (error) {
    near.close()
    far.close()
    throw error
  }
}

/** The status of a complete response, or why there was none. */
type Answer = { readonly status: number } | { readonly error: string }

/**
 * Sends `GET path` on an existing connection and reads the response to its end. `answered` is called at most once, and only after
 * this returns. The caller still owns the socket, and may destroy it to abort the request.
 */
function ask(socket: Socket, path: string, answered: (answer: Answer) => void): void {
  // The request adds its own error handler when it takes over the socket, a tick from now.
  socket.on('error', () => {})
  let over = false
  const end = (answer: Answer) => {
    if (over) return
    over = true
    answered(answer)
  }
  const request = http().get({
    path,
    headers: { Host: 'localhost', 'User-Agent': 'baton-health-check' },
    createConnection: () => socket,
  })
  request.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
  request.on('response', (response) => {
    response.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
    response.on('end', () => end({ status: response.statusCode ?? 0 }))
    response.resume()
  })
  // The socket of a relay was paused while dialling.
  socket.resume()
}
