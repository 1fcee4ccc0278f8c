import type { OwnedFd } from '@baton/native-sendmsg'
import type { Control } from '../../ipc/controls.ts'
import type { Conditions } from './conditions.ts'
import type { WorkerPoolHost } from './worker-pool-host.ts'
import type { WorkerProcess } from './worker-process.ts'

/** The workers of a pool. */
export interface Workers {
  readonly all: ReadonlySet<WorkerProcess>
  /** The one that serves. */
  readonly current: WorkerProcess | undefined
  /** Checked after each message of a worker. */
  readonly conditions: Conditions
  /** Tells the serving worker what the next master is to know. */
  sendEstate(): void
}

/** Messages to running workers whenever something changes. A new worker gets all of it with its first orders. */
export class StandingOrders {
  readonly #workers: Workers
  readonly #host: Pick<WorkerPoolHost, 'managed' | 'tickets' | 'shifts'>
  /** The last list of managed processes that was sent, as JSON. */
  #managed = ''
  /** How often shifts were sent. */
  #shiftsSent = 0

  constructor(workers: Workers, host: Pick<WorkerPoolHost, 'managed' | 'tickets' | 'shifts'>) {
    this.#workers = workers
    this.#host = host
  }

  /** The running managed processes, if they are others than before. */
  sendManaged(): void {
    const processes = this.#host.managed()
    const text = JSON.stringify(processes)
    if (text === this.#managed) return
    this.#managed = text
    for (const worker of this.#workers.all) worker.send({ type: 'managed', processes })
  }

  /** The keys for TLS session tickets. */
  sendTickets(): void {
    // First: once a backend encrypts with a key, the next master must know it, whenever this one is killed.
    this.#workers.sendEstate()
    const tickets = this.#host.tickets()
    for (const worker of this.#workers.all) worker.send({ type: 'tickets', tickets })
  }

  /** The shifts in force. */
  sendShifts(): void {
    const shifts = this.#host.shifts()
    const ask = ++this.#shiftsSent
    for (const worker of this.#workers.all) worker.send({ type: 'shifts', shifts, ask })
    this.#workers.sendEstate()
  }

  /** Resolves when the serving worker applies the shifts that were sent last; if it hangs, or is of an older version, after `timeout` ms. */
  async shifted(timeout: number): Promise<void> {
    const [worker, ask] = [this.#workers.current, this.#shiftsSent]
    if (worker === undefined) return
    await this.#workers.conditions.until(() => !worker.alive || worker.shifted >= ask, timeout)
  }

  /**
   * Asks every worker to drain a backend: only a finishing worker knows the backends of a service that a reload has removed.
   *
   * @param deadline in ms
   */
  drain(service: string, backend: string, deadline: number): void {
    for (const worker of this.#workers.all) worker.send({ type: 'drain', service, backend, deadline })
  }

  /** Tells all workers but the one where an operator has ordered it. */
  sendControl(from: WorkerProcess, service: string, control: Control): void {
    for (const worker of this.#workers.all)
      if (worker !== from) worker.send({ type: 'control', service, control })
  }

  /**
   * A socket whose file was created again, to every worker that serves or is about to. Workers keep the former one as well, because its
   * accept queue may hold connections.
   *
   * @param name of a listener
   * @throws {NativeError} EMFILE
   */
  replaceSocket(role: 'listener' | 'control' | 'admin', name: string | undefined, fd: OwnedFd): void {
    const message = { type: 'sockets', role, names: name === undefined ? [] : [name] } as const
    for (const worker of this.#workers.all) if (worker.role === 'current') worker.send(message, [fd.fd])
  }
}
