import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, readdirSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import {
  connectUnix,
  dup,
  listenUnix,
  NativeError,
  type OwnedFd,
  Poller,
  send,
  sharedPoller,
} from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseConfig, type ServiceConfig } from '../src/config/config.ts'
import { DescriptorReserve } from '../src/worker/listen/descriptor-reserve.ts'
import { CLAIM } from '../src/ipc/claim.ts'
import { Operator } from '../src/master/operator/operator.ts'
import { Metrics } from '../src/metrics/metrics.ts'
import { Registry } from '../src/worker/registry/registry.ts'
import { Service } from '../src/worker/service/service.ts'
import { Reception } from '../src/worker/unclaimed/reception.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { greet, hello } from '../../../test/support/false-backend.ts'
import { Program, root, temporaryFolder } from '../../../test/support/process.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// The sockets for backends (control.sock) and for operators (master.sock). First in this file: the descriptor table only
// stays full while nothing else is being closed.

/** A user without privileges. */
const NOBODY = 65_534

/** Maximum number of pending connections in a registry. */
const MAX_PENDING = 128

const openDescriptors = () => readdirSync('/proc/self/fd').length

/** Opens all descriptors that this process may still open; `leave` closes them. */
function exhaust(t: Test): { leave: () => void } {
  const fillers: OwnedFd[] = []
  const leave = () => {
    for (const filler of fillers.splice(0)) filler.close()
  }
  t.teardown(leave)
  for (;;) {
    try {
      fillers.push(dup(0))
    } catch (error) {
      if (!(error instanceof NativeError) || error.code !== 'EMFILE') throw error
      return { leave }
    }
  }
}

/** Watches a socket, and counts its wake-ups. */
class Room {
  readonly path: string
  readonly listening: OwnedFd
  readonly poller: Poller
  wakes = 0

  constructor(t: Test) {
    this.path = join(temporaryFolder(t), 'a.sock')
    this.listening = listenUnix({ path: this.path, backlog: 256 })
    this.poller = new Poller({ afterWake: () => (this.wakes += 1) })
    t.teardown(() => {
      this.poller.close()
      this.listening.close()
    })
  }

  /** Fails if the socket, on which a client waits, keeps this process busy. One check every 100 ms is allowed. */
  async rests(t: Test): Promise<void> {
    const before = this.wakes
    await new Promise((resolve) => setTimeout(resolve, 500))
    t.ok(this.wakes - before < 20, `${this.wakes - before} wake-ups in half a second`)
  }
}

interface Registering extends Room {
  readonly registry: Registry
  readonly logs: Record<string, unknown>[]
}

/** A registry with one service, without a worker. */
function openRegistry(t: Test): Registering {
  const room = new Room(t)
  const logs: Record<string, unknown>[] = []
  const logger = pino({}, { write: (line) => logs.push(JSON.parse(line) as Record<string, unknown>) })
  const config = parseConfig({
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: {} },
  })
  const service = new Service('web', config.services.get('web') as ServiceConfig, {
    poller: room.poller,
    lingeringClose: { reject: () => t.fail('rejected') },
    metrics: new Metrics({ version: '0', listeners: ['web'], services: ['web'] }),
    logger,
  })
  const registry = new Registry({
    config,
    socket: { fd: room.listening, path: room.path, mode: 0o600 },
    services: new Map([['web', service]]),
    brokerId: '01ARZ3NDEKTSV4RRFFQ69G5FAV',
    logger,
  })
  t.teardown(() => {
    registry.close()
    for (const link of service.links) link.close()
  })
  return Object.assign(room, { registry, logs })
}

/** Connects an honest backend, and checks that it is registered. */
async function registers(t: Test, path: string): Promise<void> {
  const { answer, connection, lane } = await greet(path, hello('web'))
  t.equal(answer.type, 'welcome')
  connection.close()
  lane?.close()
}

void t.test(
  'listeners on Unix sockets resume accepting after an interruption',
  { timeout: LIMIT },
  async (t) => {
    const limit = openDescriptors() + 3 * MAX_PENDING + 64
    execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${limit}:`])
    // Opened once and kept by the process.
    sharedPoller()
    const poller = new Poller()
    t.teardown(() => poller.close())
    const before = openDescriptors()
    const scene = (title: string, act: (t: Test) => Promise<void>) =>
      t.test(title, { timeout: LIMIT }, async (t) => {
        // Descriptors closed by a scene may be released a moment later.
        await eventually(
          () => openDescriptors() === before,
          () => `${before} descriptors; there are ${openDescriptors()}`,
        )
        await act(t)
      })

    await scene('a registry that was out of descriptors', async (t) => {
      const reception = openRegistry(t)
      const first = connectUnix(reception.path)
      t.teardown(() => first.close())
      const { leave } = exhaust(t)
      reception.registry.start(reception.poller)
      const said = () => reception.logs.filter(({ msg }) => msg === 'cannot accept on the control socket')
      await eventually(() => said().length > 0, 'it is logged')
      await reception.rests(t)
      t.match(said(), [{ code: 'EMFILE' }])
      t.equal(said().length, 1, 'once')
      leave()
      await registers(t, reception.path)
    })

    await scene('a registry with its maximum of pending connections', async (t) => {
      const reception = openRegistry(t)
      const strangers = Array.from({ length: MAX_PENDING }, () => connectUnix(reception.path))
      const leave = () => {
        for (const stranger of strangers.splice(0)) stranger.close()
      }
      t.teardown(leave)
      let isIn = false
      const registered = registers(t, reception.path).then(() => (isIn = true))
      reception.registry.start(reception.poller)
      await eventually(() => reception.wakes > 0, 'it was woken')
      await reception.rests(t)
      t.notOk(isIn, 'one more waits in the kernel')
      leave()
      await registered
    })

    await scene('a registry that was paused, and started again', async (t) => {
      const reception = openRegistry(t)
      reception.registry.start(reception.poller)
      await registers(t, reception.path)
      reception.registry.pause()
      t.equal(reception.poller.size, 0)
      const registered = registers(t, reception.path)
      await reception.rests(t)
      reception.registry.start(reception.poller)
      await registered
    })

    await scene('an operator’s socket whose master was out of descriptors', async (t) => {
      const room = new Room(t)
      const commands: string[] = []
      const client = connectUnix(room.path)
      t.teardown(() => client.close())
      send(client.fd, Buffer.from('status\n'))
      const { leave } = exhaust(t)
      const operator = new Operator(room.listening, room.poller, {
        status: () => commands.push('status'),
        deploy: () => Promise.reject(new Error('not asked for')),
        shift: () => Promise.reject(new Error('not asked for')),
        scale: () => Promise.reject(new Error('not asked for')),
        listen: () => Promise.reject(new Error('not asked for')),
        reload: () => undefined,
        stop: () => undefined,
      })
      t.teardown(() => operator.close())
      await eventually(() => room.wakes > 0, 'it was woken')
      await room.rests(t)
      t.same(commands, [])
      leave()
      await eventually(() => commands.length > 0, 'the command arrives')
      t.same(commands, ['status'])
    })

    await scene('the same socket in a worker whose master was killed', async (t) => {
      // The worker was busy until there was a descriptor again.
      const room = new Room(t)
      const client = connectUnix(room.path)
      t.teardown(() => client.close())
      send(client.fd, Buffer.from('status\n'))
      const { leave } = exhaust(t)
      let asked = 0
      const reception = new Reception(room.listening, room.poller, {
        status: () => (asked += 1),
        stop: () => undefined,
        claim: () => undefined,
      })
      t.teardown(() => reception.close())
      await eventually(() => room.wakes > 0, 'it was woken')
      await room.rests(t)
      t.equal(asked, 0)
      leave()
      await eventually(() => asked > 0, 'the command arrives')
    })
  },
)

void t.test(
  'readers do not keep the next master from a worker whose master was killed',
  { timeout: LIMIT, skip: process.getuid?.() !== 0 && 'needs root' },
  async (t) => {
    // A reader could have all sessions of the worker: it could be neither stopped nor taken over.
    const room = new Room(t)
    chmodSync(dirname(room.path), 0o755)
    chmodSync(room.path, 0o666)
    let claims = 0
    const reception = new Reception(room.listening, room.poller, {
      status: () => 0,
      stop: () => undefined,
      claim: () => (claims += 1),
    })
    t.teardown(() => reception.close())
    process.seteuid?.(NOBODY)
    let readers: OwnedFd[]
    try {
      readers = Array.from({ length: 64 }, () => connectUnix(room.path))
    } finally {
      process.seteuid?.(0)
    }
    const master = connectUnix(room.path)
    t.teardown(() => {
      for (const fd of [master, ...readers]) fd.close()
    })
    send(master.fd, Buffer.from(`${CLAIM}\n`))
    await eventually(() => claims === 1, 'the master is heard')
  },
)

// Listeners, which share the free descriptors.

const DESCRIPTORS = 640
const CROWD = 70
/** More than the table has room for, in several batches. */
const MASS = 300

/** Runs `crowded.mjs` with many clients at each of its listeners. */
async function crowd(t: Test, listeners: number, clients: number, gaps: number) {
  const script = 'ulimit -n "$0"; exec "$@"'
  const program = ['packages/broker/test/programs/crowded.mjs', DESCRIPTORS, listeners, gaps].map(String)
  const crowded = new Program(t, 'sh', ['-c', script, `${DESCRIPTORS}`, process.execPath, ...program], {
    cwd: root,
  })
  const addresses = JSON.parse(
    await crowded.line((line) => line.startsWith('['), 'its addresses'),
  ) as string[]
  for (const address of addresses) {
    const port = Number(address.split(':')[1])
    for (let count = 0; count < clients; count++) {
      const socket = connect(port, '127.0.0.1')
      t.teardown(() => socket.destroy())
      // The program exits before them.
      socket.on('error', () => undefined)
      await once(socket, 'connect')
    }
  }
  crowded.child.stdin?.write('go\n')
  const said = JSON.parse(await crowded.line((line) => line.startsWith('{'), 'the results')) as {
    accepted: number
    left: number
    logs: string[]
  }
  t.ok(said.left >= 64, `${said.left} descriptors are left`)
  t.same(
    new Set(said.logs),
    new Set(['cannot accept; clients wait in the kernel: descriptor reserve reached']),
    JSON.stringify(said),
  )
  return said
}

void t.test('listeners that are called in one round share one reserve', { timeout: LIMIT }, async (t) => {
  // Each listener only checked its own newest client's number: two listeners with full queues used up the descriptors reserved
  // for registrations, four used up everything.
  const { accepted } = await crowd(t, 4, CROWD, 0)
  t.ok(accepted > 0, 'the first was let in')
})

void t.test('one free low number is not room for a batch of clients', { timeout: LIMIT }, async (t) => {
  // The check used the next free number, and a low one had just been freed (an idle connection to the admin server): a batch of 64
  // was accepted each time, until the table was full. A worker with a full table lost its channel to the next master.
  const { accepted } = await crowd(t, 1, MASS, 5)
  t.ok(accepted < 64 + 64, `${accepted} were accepted`)
})

void t.test('a reserve is suspected from its first used descriptor until a check finds room', async (t) => {
  const reserve = new DescriptorReserve(10_000)
  t.notOk(reserve.isSuspected)
  t.notOk(reserve.isReached(5000))
  t.notOk(reserve.isSuspected)
  t.ok(reserve.isReached(9999))
  t.notOk(reserve.isReached(5000))
  t.ok(reserve.isSuspected, 'one low number proves nothing: one client has just left')
  t.notOk(reserve.isReachedNow(0), 'the next number of this process is a low one')
  t.ok(reserve.isSuspected, 'nor does one free number')
  t.equal(reserve.roomFor(0, 64), 64)
  t.notOk(reserve.isSuspected)
})
