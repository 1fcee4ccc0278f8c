import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import http from 'node:http'
import net, { type Socket } from 'node:net'
import { dup } from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { Adoption } from '../src/adoption.ts'
import { type Attachment, attachServer } from '../src/attach/index.ts'
import type { AttachableServer } from '../src/attach/server-kind.ts'
import { type Migration, type Mover, Movers } from '../src/migrate/mover.ts'
import { RawMover, type RawMigration } from '../src/migrate/raw.ts'

// Two processes that pass a connection on, in one process and without a broker between them: the descriptor and the block of a
// departure of one side are adopted by the other.

/** One of the two: a server, and what a backend has for it. */
export class Side {
  readonly server: AttachableServer
  readonly attachment: Attachment
  readonly adoption: Adoption
  readonly migration: Migration
  /** Errors and warnings of the log. */
  readonly logged: { error?: Error & { code?: string }; cause?: unknown }[] = []

  constructor(server: AttachableServer = http.createServer(), migrate?: RawMigration) {
    this.server = server
    const log = (context: object) => void this.logged.push(context)
    const logger = { info() {}, warn: log, error: log }
    this.adoption = new Adoption({ service: 'web', logger }, new EventEmitter())
    this.migration = {
      movers: new Movers(() => undefined),
      logger,
      connection: (socket) => this.adoption.connection(socket),
      mayLeave: () => undefined,
      nothingReadBehind: (answers) => this.attachment.nothingReadBehind(answers),
    }
    this.attachment = attachServer(server, {
      onServerClose: () => undefined,
      onUpgrade: (request, socket) => this.adoption.upgraded(request, socket),
    })
    if (migrate === undefined) return
    const mover = new RawMover(this.migration, migrate)
    this.adoption.raw = mover
    this.migration.movers.add(mover)
  }

  get mover(): Mover {
    const [mover] = this.migration.movers
    if (mover === undefined) throw new Error('no mover')
    return mover
  }

  /** A port whose connections this side adopts as a backend does. */
  async listen(t: Test): Promise<number> {
    const front = net.createServer({ pauseOnConnect: true }, (socket) => {
      const { fd } = Reflect.get(socket, '_handle') as { fd: number }
      const copy = dup(fd)
      socket.destroy()
      const offer = {
        sequence: 1,
        token: Buffer.alloc(16),
        connection: randomBytes(16),
        deadline: 0n,
        kind: 'descriptor' as const,
        listener: 'web',
        meta: undefined,
        resumed: undefined,
      }
      this.adoption.adopt(this.attachment, offer, copy.release())
    })
    front.listen(0, '127.0.0.1')
    await once(front, 'listening')
    t.teardown(() => {
      front.close()
      this.attachment.destroyAll()
    })
    return (front.address() as net.AddressInfo).port
  }

  /**
   * Hands a connection over to `next`, if it can leave now.
   *
   * @returns whether it has left
   * @throws {MigrationError} as `Mover.pack`
   */
  move(socket: Socket, next: Side): boolean {
    if (!this.adoption.canLeave(socket)) return false
    const packed = this.mover.pack(socket)
    if (packed === undefined) return false
    const departure = this.adoption.departure(socket, 0, packed.block)
    if (departure?.resumed === undefined) throw new Error('no departure')
    const prefix = this.adoption.letGo(socket, packed)
    if (prefix.length !== packed.prefixLength) throw new Error('the length of the prefix')
    const arrived = { ...departure, resumed: { ...departure.resumed, prefix } }
    next.adoption.adoptAgain(next.attachment, arrived, false)
    return true
  }

  /** Moves every connection that can leave. */
  moveAll(next: Side): number {
    let moved = 0
    for (const socket of this.mover.connections()) if (this.move(socket, next)) moved += 1
    return moved
  }
}
