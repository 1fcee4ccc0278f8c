import { Socket } from 'node:net'
import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { type OwnedFd, refuseDescriptors, socketpair } from '@baton/native-sendmsg'
import type { ClientConnection, ProbeHost } from '../connection/connection.ts'
import { createConnectionId } from '../connection/connection-id.ts'
import { decide, type Failure } from '../connection/failure.ts'
import type { BackendLink } from '../backend/backend-link.ts'
import { type Answer, ask } from './question.ts'

/**
 * The listener that a check names in its OFFER. No listener of a configuration can have this name, so an app can tell
 * (`backend.connection(socket).listener`).
 */
export const PROBE_LISTENER = 'baton:health'

export interface ProbeOptions {
  /** Of the request. */
  readonly path: string
  /** Milliseconds, from the offer to the end of the answer. */
  readonly timeout: number
  /** Nothing is handed over in this service: ask over a relay. */
  readonly relay: boolean
}

/** `unknown`: what kept the check from being made is not the backend's doing. */
export interface Verdict {
  readonly result: 'passed' | 'failed' | 'unknown'
  readonly reason: string
}

/**
 * One check of one backend. It goes the way of a client: one end of a socketpair is offered to the backend, and on the other
 * the question is asked once the backend has acknowledged. A relay is dialled, and the question asked on it.
 *
 * Owner of both ends of the pair. The end that was offered is closed when the link gives it back in whatever way, which can
 * be later than the verdict: until then the link may send it.
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
   * Offers it at once. The verdict comes exactly once unless the probe is cancelled, and may come before this returns.
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

  /** Whether the verdict is there, or the probe was cancelled. */
  get over(): boolean {
    return this.#over
  }

  /** Whether the link has let go of it. */
  get settled(): boolean {
    return this.#far.closed
  }

  /** Nobody wants to know any more. */
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

  /** Owns `upstream` from now on. */
  relayed(upstream: Socket): void {
    this.#far.close()
    this.#near.destroy()
    this.#upstream = upstream
    this.#request(upstream)
  }

  returned({ code }: Failure): void {
    this.#far.close()
    // Pressure and polite refusals say nothing of the backend's health, as they do not count against it elsewhere.
    this.#conclude({ result: decide(code).countsAgainstBackend ? 'failed' : 'unknown', reason: code })
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
    const what = this.#acknowledged ? 'no answer' : 'no ACK'
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

/** The caller owns both. */
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
