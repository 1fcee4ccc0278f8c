import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { ConnectionInfo } from '../connection-info.ts'
import type { Logger } from '../logger.ts'
import type { ResumedBlock } from '../protocol/index.ts'

/** A connection that can be handed back in this very step: nothing was changed about it so far, but its reading may be paused. */
export interface Packed {
  /** Goes with it. Its prefix follows in `leave`. */
  readonly block: Omit<ResumedBlock, 'prefix'>
  /** Bytes that `leave` will return. */
  readonly prefixLength: number
  /**
   * Nothing was written, read or closed since. To be asked in the step in which it leaves: packing the connections behind it has called
   * the app, which may have written to this one.
   */
  still(): boolean
  /**
   * Takes the app's hands off the socket. The descriptor's duplicate is on its way. Exceptions of the socket's listeners do not
   * come here; where it calls other code of the app, it catches them itself.
   *
   * @returns the bytes that were read and not consumed
   */
  leave(): Buffer
  /** It does not leave after all. */
  stay(): void
}

/** Moves one kind of connection with state, such as the WebSockets of one server. */
export interface Mover {
  /** The schemas that it can resume. */
  readonly accepts: readonly string[]
  /** Its open connections. */
  connections(): Iterable<Socket>
  /**
   * Whether this connection can leave now, and with what. Synchronous, and nothing may be read before `leave` or `stay` is called (M2).
   *
   * @returns undefined: not now
   * @throws {MigrationError} BATON_ERR_STATE_FAILED, BATON_ERR_STATE_INVALID
   */
  pack(socket: Socket): Packed | undefined
}

/** The parts of a backend that movers need. */
export interface Migration {
  readonly movers: Movers
  readonly logger: Logger
  connection(socket: Socket): ConnectionInfo | undefined
  /** A connection that could not leave may be able to now. */
  mayLeave(): void
  /** Of connections with an open answer: those behind whose request, body included, nothing was read. Holds for this step. */
  nothingReadBehind(answers: ReadonlyMap<Socket, ServerResponse>): ReadonlySet<Socket>
}

/** All movers of one backend. */
export class Movers implements Iterable<Mover> {
  readonly #movers: Mover[] = []
  readonly #onChanged: () => void

  /** @param onChanged called after each `add` and `remove` */
  constructor(onChanged: () => void) {
    this.#onChanged = onChanged
  }

  get isEmpty(): boolean {
    return this.#movers.length === 0
  }

  /** All schemas that this process can resume. */
  get schemas(): string[] {
    return [...new Set(this.#movers.flatMap(({ accepts }) => accepts))]
  }

  add(mover: Mover): void {
    this.#movers.push(mover)
    this.#onChanged()
  }

  /** It has no connections any more, and resumes none. */
  remove(mover: Mover): void {
    const at = this.#movers.indexOf(mover)
    if (at === -1) return
    this.#movers.splice(at, 1)
    this.#onChanged()
  }

  [Symbol.iterator](): Iterator<Mover> {
    return this.#movers[Symbol.iterator]()
  }
}

const migrations = new WeakMap<object, Migration>()

/** Makes `migrationOf` find it. */
export function offerMigration(backend: object, migration: Migration): void {
  migrations.set(backend, migration)
}

/** The inside of a backend, for movers that are not part of it. Undefined if `backend` is none. */
export function migrationOf(backend: object): Migration | undefined {
  return migrations.get(backend)
}
