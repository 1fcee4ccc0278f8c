import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { BackendError } from '../errors.ts'
import type { ConnectionInfo } from '../connection-info.ts'
import { recordAnswerHead } from './answer-head.ts'
import { takeState } from './app-state.ts'
import { MigrationError } from './errors.ts'
import type { Migration, Mover, Packed } from './mover.ts'
import { OpenAnswer } from './open-answer.ts'
import { checkMigrationOptions, type SchemaOptions } from './options.ts'
import type { Replay } from './replay.ts'
import { mute, takeUnread } from './socket-state.ts'

/** How the open answers of an `http.Server` move. `State` is anything that JSON can hold. */
export interface EventStreamMigration<State> extends SchemaOptions {
  /**
   * Returns all that the next process needs to go on with this answer. Synchronous. Undefined: not now, or no stream that can go on
   * elsewhere; it is asked again soon.
   *
   * Called for every answer of the server whose end is open, when everything that was written has left.
   */
  state(response: ServerResponse, request: IncomingMessage): State | undefined
  /**
   * Takes an answer up, after the app has handled the request and its `writeHead()` was called. What is written goes on behind what the client has.
   * May be asynchronous. If it throws or rejects, the connection is closed.
   */
  resume(response: ServerResponse, state: State, request: IncomingMessage): void | Promise<void>
}

/** Servers that have a mover: two would each take the answers of the other. */
const moved = new WeakSet<Server>()

/** Moves the open answers of one server. */
export class EventStreamMover<State> implements Mover {
  readonly accepts: readonly string[]
  readonly #migration: Migration
  readonly #options: EventStreamMigration<State>
  readonly #open = new Map<Socket, OpenAnswer>()
  /** Those whose request was read again. */
  readonly #replayed = new WeakSet<Replay>()
  /** Those that the parser has nothing behind. Known within one step. */
  #quiet: ReadonlySet<Socket> | undefined

  /** @throws {BackendError} BATON_ERR_INVALID_OPTION */
  constructor(server: Server, migration: Migration, options: EventStreamMigration<State>) {
    this.accepts = checkMigrationOptions('migrateEventStreams()', options)
    if (moved.has(server))
      throw new BackendError(
        'BATON_ERR_INVALID_OPTION',
        'migrateEventStreams(): called before for this server; tell kinds of streams apart in `state`',
      )
    moved.add(server)
    this.#migration = migration
    this.#options = options
    // In front of the app's, so that the head of its answer is seen.
    server.prependListener('request', (request, response) => this.#requested(request, response))
  }

  connections(): Iterable<Socket> {
    this.#quiet = undefined
    return this.#open.keys()
  }

  pack(socket: Socket): Packed | undefined {
    const answer = this.#open.get(socket)
    if (answer === undefined || !this.#isStill(answer)) return undefined
    const { request, response, requestHead } = answer
    const state = takeState(() => this.#options.state(response, request))
    // `state` may have written.
    if (state === undefined || !answer.isStill) return undefined
    return {
      block: {
        kind: 'replay',
        schema: this.#options.schema,
        requestHead,
        answerHead: answer.head as Buffer,
        state,
      },
      prefixLength: socket.readableLength,
      still: answer.unchanged(),
      leave: () => {
        this.#open.delete(socket)
        const { unread } = takeUnread(socket)
        mute(socket)
        return unread
      },
      stay: () => undefined,
    }
  }

  #isStill(answer: OpenAnswer): boolean {
    if (!answer.isStill) return false
    const replay = this.#migration.connection(answer.socket)?.replay
    if (replay !== undefined && !replay.isOver) return false
    return this.#withNothingBehind().has(answer.socket)
  }

  /** Of all at once: the parser can only be asked about all connections of the server. */
  #withNothingBehind(): ReadonlySet<Socket> {
    if (this.#quiet === undefined) {
      const answers = [...this.#open.values()].filter((each) => each.isStill)
      this.#quiet = this.#migration.nothingReadBehind(
        new Map(answers.map(({ socket, response }) => [socket, response])),
      )
      // Nothing is read before.
      process.nextTick(() => (this.#quiet = undefined))
    }
    return this.#quiet
  }

  #requested(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    const connection = this.#migration.connection(socket)
    if (connection?.via !== 'handoff') return
    const { replay } = connection
    const replays = replay !== undefined && !replay.isOver
    // This request began here, whatever was on the connection before.
    if (!replays) connection.resumed = undefined
    // Answers to requests that came together wait for one another: the bytes that are written next are another's.
    if (this.#open.has(socket) || (replays && this.#replayed.has(replay))) return
    const answer = new OpenAnswer(request, response)
    this.#open.set(socket, answer)
    response.once('close', () => {
      if (this.#open.get(socket) === answer) this.#open.delete(socket)
    })
    if (replays) this.#takeUp(answer, connection, replay)
    else recordAnswerHead(socket, (head) => (answer.head = head))
  }

  #takeUp(answer: OpenAnswer, connection: ConnectionInfo, replay: Replay): void {
    this.#replayed.add(replay)
    if (replay.hasFailed) return
    // The next request of this connection begins here, whatever it is. Later: the app's own listeners still ask.
    answer.response.once('close', () =>
      process.nextTick(() => {
        connection.replay = undefined
        connection.resumed = undefined
      }),
    )
    answer.head = replay.block.answerHead
    replay.hold()
    // A tick later: behind `writeHead()` the app still does what it needs to know this client.
    replay.onAnswered = () => process.nextTick(() => void this.#resume(answer, connection, replay))
    flushWrittenHead(answer.response, replay)
  }

  async #resume(
    { request, response, socket }: OpenAnswer,
    connection: ConnectionInfo,
    replay: Replay,
  ): Promise<void> {
    if (replay.hasFailed || socket.destroyed) return
    const { schema, state } = connection.resumed ?? { schema: '', state: undefined }
    try {
      if (!this.accepts.includes(schema))
        throw new Error(`its schema is ${JSON.stringify(schema)}, and this server does not accept it`)
      // The app has nothing more to say to this client.
      if (!response.writableEnded) {
        const resuming = this.#options.resume(response, state as State, request)
        if (resuming !== undefined) await resuming
      }
    } catch (error) {
      replay.fail(new MigrationError('BATON_ERR_RESUME_FAILED', undefined, { cause: error }))
      return
    }
    replay.resumed(() => false)
  }
}

/** Node holds a head back until there is something behind it. An app that greets new clients only would wait for `resume`. */
function flushWrittenHead(response: ServerResponse, replay: Replay): void {
  const below = response.writeHead.bind(response) as (...args: unknown[]) => ServerResponse
  const layer = (...args: unknown[]): ServerResponse => {
    const written = below(...args)
    process.nextTick(() => {
      if (replay.awaitsAnswer && !response.writableEnded && !response.destroyed) response.flushHeaders()
    })
    return written
  }
  Object.defineProperty(response, 'writeHead', { value: layer, configurable: true, writable: true })
}
