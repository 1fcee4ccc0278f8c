import type { Socket } from 'node:net'
import { decodeProxyHeader } from '../../../backend-sdk/src/protocol/index.ts'
import type { IncomingRelay } from '../../../backend-sdk/src/relay/relay-endpoint.ts'
import type { DialHost, PendingDial } from '../../src/worker/relay/dial.ts'
import { File, type Process } from './kernel.ts'

class PipeEnd extends File {
  override released(): void {}
}

/** The address where one registration of a backend accepts relays. */
export class SimulatedEndpoint {
  readonly process: Process
  open = true
  #onArrival: (relay: IncomingRelay) => void = ({ socket }) => void socket.destroy()

  constructor(process: Process) {
    this.process = process
  }

  onArrival(listener: (relay: IncomingRelay) => void): void {
    this.#onArrival = listener
  }

  arrive(relay: IncomingRelay): void {
    this.#onArrival(relay)
  }

  close(): void {
    this.open = false
  }
}

/** One connection from the broker to an endpoint: connect, header, and the end of either side. */
export class RelayPipe {
  readonly broker: Process
  readonly endpoint: SimulatedEndpoint
  readonly #host: DialHost
  readonly #brokerEnd = new PipeEnd('relay (broker)')
  readonly #backendEnd = new PipeEnd('relay (backend)')
  readonly #brokerFd: number
  #state: 'dialling' | 'connected' | 'arrived' | 'settled' | 'over' = 'dialling'
  #header: Buffer | undefined
  #onBroken: (() => void) | undefined

  constructor(broker: Process, endpoint: SimulatedEndpoint, host: DialHost) {
    this.broker = broker
    this.endpoint = endpoint
    this.#host = host
    this.#brokerFd = broker.open(this.#brokerEnd)
  }

  get over(): boolean {
    return this.#state === 'over'
  }

  get pending(): PendingDial {
    const socket = {
      write: (header: Buffer) => {
        this.broker.call('writes a relay header', () => {
          this.#header = header
        })
      },
    }
    return {
      socket: Object.assign(socket, { pipe: this }) as unknown as Socket,
      cancel: () => this.close(),
      detach: () => {
        this.#state = 'settled'
      },
    }
  }

  /** The next event for the broker's event loop. */
  get brokerEvent(): (() => void) | undefined {
    if (!this.#brokerEnd.open) return undefined
    const reachable = this.endpoint.open && this.endpoint.process.alive
    if (this.#state === 'dialling') {
      return () => {
        if (!reachable) return this.#fail('ECONNREFUSED')
        this.#state = 'connected'
        this.#host.connected()
      }
    }
    const broken = this.#state === 'connected' ? !reachable : !this.#backendEnd.open
    if (!broken || this.over) return undefined
    if (this.#state !== 'settled') return () => this.#fail('ECONNRESET')
    return this.#onBroken
  }

  /** The next event for the backend's event loop. */
  get backendEvent(): (() => void) | undefined {
    const { process } = this.endpoint
    if (!this.#brokerEnd.open || !this.endpoint.open || this.#state !== 'connected') return undefined
    const header = this.#header
    if (header === undefined) return undefined
    return () => {
      this.#state = 'arrived'
      const fd = process.open(this.#backendEnd)
      const decoded = decodeProxyHeader(header)
      let open = true
      const destroy = () => {
        if (!open) return
        open = false
        process.close(fd)
      }
      this.endpoint.arrive({
        socket: { destroy } as unknown as Socket,
        addresses: decoded?.header.addresses,
        token: decoded?.header.token ?? Buffer.alloc(0),
        rest: Buffer.alloc(0),
      })
    }
  }

  /** Called by the pipe's owner, once it is settled. */
  whenBroken(listener: () => void): void {
    this.#onBroken = listener
  }

  /** The broker's side. May be called twice. */
  close(): void {
    if (this.over) return
    this.#state = 'over'
    this.broker.close(this.#brokerFd)
  }

  #fail(code: string): void {
    this.close()
    this.#host.failed(Object.assign(new Error(code), { code, errno: code === 'ECONNREFUSED' ? -111 : -104 }))
  }
}
