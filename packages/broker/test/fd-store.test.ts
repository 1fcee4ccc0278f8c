import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createMemoryFile, dup, listenTcp, type OwnedFd, Poller } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { Program, root, temporaryFolder } from '../../../test/support/process.ts'
import { type Copy, writeMarks } from '../src/ipc/copies.ts'
import { workerKey } from '../src/master/workers/copy-store.ts'
import { FdStore } from '../src/master/systemd/fd-store.ts'
import { formatName, parseName } from '../src/master/systemd/stored-names.ts'
import { restoreWaiting, type StoredFd } from '../src/master/systemd/stored-waiting.ts'
import { WaitingStore } from '../src/master/systemd/waiting-store.ts'
import { factsOf } from '../src/supervise/proc.ts'

// The service manager's store. The manager is another program with a real socket, which keeps descriptors like systemd.

class Manager {
  readonly socket: string
  readonly program: Program

  static async start(t: Test, limit: number): Promise<Manager> {
    const manager = new Manager(t, join(temporaryFolder(t), 'notify'), limit)
    await manager.program.message('bound')
    return manager
  }

  private constructor(t: Test, socket: string, limit: number) {
    this.socket = socket
    const script = join(root, 'test/programs/notify-socket.py')
    this.program = new Program(t, 'python3', [script, socket, String(limit)])
  }

  /** Names of what it keeps, in order. */
  async list(): Promise<string[]> {
    const lists = () => this.program.messages().filter(({ msg }) => msg === 'list')
    const before = lists().length
    this.program.say('list')
    await this.program.line(() => lists().length > before, 'a list')
    return lists().at(-1)?.['names'] as string[]
  }

  async keeps(names: readonly string[]): Promise<void> {
    let kept: string[] = []
    const isSame = async () => {
      kept = await this.list()
      return JSON.stringify(kept) === JSON.stringify(names)
    }
    await eventually(isSame, () => `it keeps ${names.join(' ')}, and not ${kept.join(' ')}`)
  }
}

/** A store, and what it has logged. */
function storeOf(t: Test, socket: string | undefined, storeLimit?: number) {
  const poller = new Poller({ ring: false })
  const lines: string[] = []
  const log = (first: object | string, text?: string) =>
    void lines.push(typeof first === 'string' ? first : (text ?? ''))
  const store = new FdStore({ socket, storeLimit }, poller, { info: log, warn: log } as never)
  t.teardown(() => {
    store.close()
    poller.close()
  })
  return { store, lines }
}

function socket(t: Test): OwnedFd {
  const fd = listenTcp({ host: '127.0.0.1', port: 0 })
  t.teardown(() => fd.close())
  return fd
}

const names = (count: number, from = 0) => Array.from({ length: count }, (_, index) => `name-${from + index}`)

void t.test('it stores and removes, however slowly the manager reads', { timeout: LIMIT }, async (t) => {
  const manager = await Manager.start(t, 1000)
  const { store, lines } = storeOf(t, manager.socket)
  const fd = socket(t)
  store.put('before', fd)
  await store.open()
  t.ok(store.usable)
  t.match(lines, [/keeps sockets/])
  await manager.keeps(['before'])
  manager.program.say('pause')
  for (const name of names(300)) store.put(name, fd)
  for (const name of names(150)) store.remove(name)
  store.remove('before')
  manager.program.say('go')
  await store.settled(LIMIT)
  await manager.keeps(names(150, 150))
  t.ok(await store.isKept(LIMIT), 'it has room')
  await store.settled(LIMIT)
  await manager.keeps(names(150, 150))
})

void t.test('a manager that keeps nothing', { timeout: LIMIT }, async (t) => {
  const manager = await Manager.start(t, 0)
  const { store, lines } = storeOf(t, manager.socket)
  const fd = socket(t)
  store.put('before', fd)
  await store.open()
  t.notOk(store.usable)
  store.put('after', fd)
  store.remove('after')
  await store.settled(LIMIT)
  t.same(store.names, [])
  t.same(lines, [])
  // Lines that it prints come through a pipe, and its list behind all of that.
  t.same(await manager.list(), [])
  const said = manager.program.messages().filter(({ msg }) => msg === 'stored')
  t.match(said, [{ said: { FDNAME: 'baton.probe', FDPOLL: '0' } }, { said: { BARRIER: '1' } }])
})

void t.test('a store that is full takes more when there is room', { timeout: LIMIT }, async (t) => {
  const manager = await Manager.start(t, 6)
  const { store } = storeOf(t, manager.socket, 5)
  await store.open()
  const fd = socket(t)
  for (const name of names(10)) store.put(name, fd)
  await store.settled(LIMIT)
  await manager.keeps(names(5))
  t.equal(store.room, -5)
  store.remove('name-0')
  store.remove('name-7')
  await store.settled(LIMIT)
  await manager.keeps(['name-1', 'name-2', 'name-3', 'name-4', 'name-5'])

  const { store: other } = storeOf(t, (await Manager.start(t, 5)).socket)
  await other.open()
  for (const name of names(5)) other.put(name, fd)
  await other.settled(LIMIT)
  t.notOk(await other.isKept(LIMIT), 'a manager that does not say how many it takes')
})

void t.test('a manager that is gone, or was never there', { timeout: LIMIT }, async (t) => {
  const manager = await Manager.start(t, 100)
  const { store, lines } = storeOf(t, manager.socket)
  await store.open()
  manager.program.kill('SIGKILL')
  await manager.program.exited
  const fd = socket(t)
  for (const name of names(10)) store.put(name, fd)
  await eventually(() => !store.usable, 'it notices')
  t.equal(lines.filter((line) => line.includes('no longer keeps')).length, 1)
  t.notOk(await store.isKept(LIMIT))

  for (const nowhere of [undefined, join(temporaryFolder(t), 'missing')]) {
    const { store: none, lines: said } = storeOf(t, nowhere)
    none.put('any', fd)
    await none.open()
    t.notOk(none.usable)
    await none.settled(LIMIT)
    t.same(said, [])
  }
})

void t.test('names', async (t) => {
  const all = [
    { kind: 'probe' },
    { kind: 'marks', worker: '12-3456' },
    { kind: 'records', id: '0a1b' },
    { kind: 'listening', name: 'a'.repeat(63), address: '0123456789abcdef' },
    { kind: 'waiting', worker: '12-3456', slot: 7, number: 4_294_967_295, records: '0a1b', offset: 512 },
  ] as const
  for (const name of all) {
    const text = formatName(name)
    t.same(parseName(text), name)
    t.match(text, /^[\x21-\x39\x3b-\x7e]{1,255}$/, 'as systemd wants them')
  }
  for (const text of ['web', 'baton', 'baton.', 'baton.else.1']) t.equal(parseName(text), undefined)
})

/** Copies of a worker's connections, as one start has stored them, and the next one finds them. */
class Stored {
  readonly store: FdStore
  readonly waiting: WaitingStore
  readonly marks = new Uint32Array(100)
  readonly file: OwnedFd
  readonly fds = new Map<string, OwnedFd>()

  constructor(t: Test, file: OwnedFd) {
    this.file = file
    // Instead of a manager: keeps a duplicate of each.
    const put = (name: string, fd: OwnedFd) => void this.fds.set(name, fd.dup())
    const remove = (name: string) => {
      this.fds.get(name)?.close()
      this.fds.delete(name)
    }
    this.store = { absent: false, put, remove, has: (name: string) => this.fds.has(name) } as never
    this.waiting = new WaitingStore(this.store)
    t.teardown(() => {
      this.waiting.close()
      for (const fd of this.fds.values()) fd.close()
    })
  }

  mark(slot: number, number: number): void {
    this.marks[slot] = number
    writeMarks(this.file.fd, this.marks, 0, slot + 1)
  }

  /** As passed to the next process. */
  passed(): StoredFd[] {
    return [...this.fds].flatMap(([text, fd]) => {
      const name = parseName(text)
      return name === undefined ? [] : [{ name, fd: dup(fd.fd) }]
    })
  }
}

function copyOf(slot: number, number: number, more: Partial<Copy> = {}): Copy {
  const client = {
    service: 'web',
    listener: 'web',
    protocol: 'http',
    id: `id-${slot}`,
    acceptedAt: 1,
  } as const
  return { slot, number, order: slot, client, ...more }
}

void t.test('each connection has one owner', { timeout: LIMIT }, async (t) => {
  const open = readdirSync('/proc/self/fd').length
  await t.test('whose worker has ended', (t) => {
    const file = createMemoryFile('marks')
    t.teardown(() => file.close())
    const stored = new Stored(t, file)
    const copies = stored.waiting.of('1-1', file)
    const fds = Array.from({ length: 6 }, () => socket(t))
    const long = { ...copyOf(4, 14), client: { ...copyOf(4, 14).client, service: 's'.repeat(100_000) } }
    const all = [
      copyOf(0, 10, { order: 9 }),
      copyOf(1, 11),
      copyOf(2, 12),
      copyOf(3, 13),
      long,
      copyOf(5, 15),
    ]
    for (const [index, copy] of all.entries()) {
      stored.mark(copy.slot, copy.number)
      copies.add(copy, fds[index] as OwnedFd, index === 2)
    }
    stored.waiting.flush()
    // The worker has offered one; the master has not read it.
    stored.mark(1, 0)
    // Another connection has its slot already, which the master has not stored yet.
    stored.mark(3, 16)
    // And one is over.
    copies.remove(all[5] as Copy)
    t.equal(stored.fds.size, 5 + 2)

    const removed: string[] = []
    const { survivors, release } = restoreWaiting(stored.passed(), (name) => removed.push(name))
    t.same(
      survivors.map(({ copy, reachable }) => [copy, reachable]),
      [
        [all[2], true],
        [long, false],
        [all[0], false],
      ],
      'in order of arrival',
    )
    t.same(removed, [])
    const again = restoreWaiting(stored.passed(), () => {})
    t.equal(again.survivors.length, 3, 'a start that fails before they have gone anywhere loses none')
    release()
    t.same(removed.toSorted(), [...stored.fds.keys()].toSorted())
    t.same(
      restoreWaiting(stored.passed(), () => {}).survivors,
      [],
      'whether or not the manager has removed them',
    )
    again.release()
    for (const { fd } of [...survivors, ...again.survivors]) fd.close()
    t.end()
  })

  await t.test('whose worker lives', (t) => {
    const file = createMemoryFile('marks')
    t.teardown(() => file.close())
    const stored = new Stored(t, file)
    const facts = factsOf(process.pid)
    const copies = stored.waiting.of(facts === undefined ? '' : workerKey(facts), file)
    stored.mark(0, 1)
    copies.add(copyOf(0, 1), socket(t), false)
    stored.waiting.flush()
    const removed: string[] = []
    t.same(restoreWaiting(stored.passed(), (name) => removed.push(name)).survivors, [])
    t.equal(removed.length, 3, 'it is the worker’s')
    t.equal(stored.marks[0], 1)
    t.end()
  })
  await eventually(() => readdirSync('/proc/self/fd').length === open, 'no descriptor is left')
})
