import { dup, type OwnedFd, Poller, send, socketpair } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { readAccounts, SERVICE_NUMBERS } from '../src/ipc/copies.ts'
import { estateOf } from '../src/master/workers/estate.ts'
import { WorkerCopies, type WorkerCopiesState } from '../src/master/workers/worker-copies.ts'
import type { Numbers } from '../src/worker/copies/accounts.ts'
import { Copier } from '../src/worker/copies/copier.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// The counts of a worker, as the master reads it when the worker was killed: both ends in this process, real sockets and a real memory file.

const silent = { error: () => undefined } as never

function pushAll(numbers: Numbers, handedOff: number): void {
  for (let at = 0; at < SERVICE_NUMBERS; at += 1) numbers.push(at === 0 ? handedOff : 0)
}

class Stage {
  readonly poller = new Poller({ ring: false })
  readonly copies: WorkerCopies
  readonly copier: Copier
  /** The worker's end of the stream. */
  readonly theirs: OwnedFd
  handedOff = 0
  ended = false

  constructor(t: Test) {
    const [copies, [theirs, file]] = WorkerCopies.create(this.poller, silent, () => (this.ended = true))
    this.copies = copies
    this.theirs = dup(theirs.fd)
    this.copier = new Copier([theirs, dup(file.fd)], this.poller, 100)
    this.account('web')
    t.teardown(() => {
      this.theirs.close()
      this.copier.close()
      this.poller.close()
    })
  }

  account(name: string): void {
    const moves = { movedIn: 0, movedOut: 0 }
    this.copier.account(
      { kind: 'service', name },
      (numbers) => pushAll(numbers, this.handedOff),
      () => moves,
    )
  }

  get file(): number {
    return (this.copies.stateWith(false) as WorkerCopiesState).file
  }
}

// It was not read at all: all that the worker had was in no count.
void t.test('they outlive the stream of copies', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  stage.handedOff = 3
  stage.copier.writeAccounts()
  send(stage.theirs.fd, Buffer.from('no frame of a channel'))
  await eventually(() => stage.ended, 'the stream has failed')
  const { survivors, accounts, release } = stage.copies.take()
  t.same(survivors, [])
  t.match(accounts, { layout: [{ name: 'web' }], moves: { length: 2 } })
  t.equal(accounts.numbers[0], 3)
  release()
})

// That program asked the worker for the layout, with all copies: until it came, the numbers meant nothing.
void t.test("the master's next program can read them without copies", { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  stage.handedOff = 3
  stage.copier.writeAccounts()
  const file = () => readAccounts(stage.file, [{ kind: 'service', name: 'web' }])
  t.equal(file().numbers[0], 3)
  let isKnown = false
  await eventually(() => {
    isKnown = stage.copies.accounts.layout.length === 1
    return isKnown
  }, 'the master has the layout')
  const state = stage.copies.stateWith(false) as WorkerCopiesState
  const carried = { ...state, channel: dup(state.channel).release(), file: dup(state.file).release() }
  let ended = false
  const copies = WorkerCopies.adopt(carried, stage.poller, silent, () => (ended = true))
  // As if the worker were killed now.
  stage.copier.close()
  stage.theirs.close()
  t.equal(copies.written.numbers[0], 3)
  await eventually(() => ended, 'everything is read')
  copies.take().release()
})

// The worker wrote them after its next round, and may be killed before.
void t.test('they are in the memory file of another master at once', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  stage.handedOff = 3
  stage.copier.writeAccounts()
  const [next, [theirs, file]] = WorkerCopies.create(stage.poller, silent, () => {})
  stage.copier.connect([theirs, dup(file.fd)], 100)
  const { numbers, moves } = readAccounts(file.fd, [{ kind: 'service', name: 'web' }])
  t.same([numbers[0], moves?.length], [3, 2])
  next.take().release()
})

// By the new layout, the moves that were written before were outcomes of the new service.
void t.test('new ones are written before the master knows them', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  stage.handedOff = 3
  stage.copier.writeAccounts()
  stage.account('late')
  const layout = [
    { kind: 'service', name: 'web' },
    { kind: 'service', name: 'late' },
  ] as const
  t.equal(readAccounts(stage.file, layout).moves?.length, 4)
  t.equal(stage.copies.accounts.layout.length, 0, 'nothing is read in this turn')
  t.same(stage.copier.written.layout, layout)
})

void t.test('what an estate has no room for is known not to be known', async (t) => {
  const finishing = { pid: 1, startedAt: '1', snapshot: [], layout: [], file: 99 }
  const estate = (listeners: number, workers: readonly (typeof finishing | undefined)[]) => {
    const state = {
      operator: 1,
      control: 2,
      admin: { fd: 3 },
      listeners: Array.from({ length: listeners }, (_, index) => ({ name: `l${index}`, fd: 10 + index })),
    }
    const active = { settings: { text: '{}' }, sockets: { state } } as never
    const counters = { losses: { open: { 'service web': 2 }, moved: {} } } as never
    const rest = { counters, started: 1, fleet: { services: [] }, lifeline: [4, 5], finishing: workers }
    return estateOf(active, rest as never)?.estate
  }
  const losses = { open: { 'service web': 2 }, moved: {} }
  const small = estate(10, [finishing])
  t.match(small?.finishing, [finishing])
  t.same(small?.counters.losses, losses)
  for (const [listeners, workers] of [
    [43, [finishing]],
    [10, [finishing, undefined]],
  ] as const) {
    const { counters, finishing: listed = [] } = estate(listeners, workers) ?? {}
    t.equal(listed.length, workers.length - 1)
    t.same(counters?.losses, { ...losses, isBlind: true })
  }
})

// The master had been short of descriptors when it started the worker. The next program, which was not, was refused: no reload was possible while the worker
// lived, and nothing that was lost was counted.
void t.test('a worker without copies has them from the next program on', { timeout: LIMIT }, async (t) => {
  const poller = new Poller({ ring: false })
  const copier = Copier.alone(poller)
  t.teardown(() => {
    copier.close()
    poller.close()
  })
  copier.account(
    { kind: 'service', name: 'web' },
    (numbers) => pushAll(numbers, 3),
    () => ({ movedIn: 1, movedOut: 0 }),
  )
  const listener = { name: 'web', protocol: 'http' as const }
  const [fd, other] = socketpair('stream')
  t.teardown(() => {
    fd.close()
    other.close()
  })
  const client = { order: 1, fd, listener, peer: undefined, id: Buffer.alloc(16, 1), acceptedAt: 0 }
  copier.of('web').keep({ ...client, tried: undefined, pressedSince: undefined } as never)
  copier.writeAccounts()
  let ended = false
  const [copies, [theirs, file]] = WorkerCopies.create(poller, silent, () => (ended = true))
  copier.connect([theirs, file], 100)
  await eventually(() => copies.size === 1, 'what waits is copied')
  t.equal(copies.quiet, true)
  t.match(copies.written, { layout: [{ name: 'web' }], numbers: [3], moves: [1, 0] })
  copier.close()
  await eventually(() => ended, 'the worker has ended')
  const { survivors, release } = copies.take()
  t.equal(survivors.length, 1)
  for (const survivor of survivors) survivor.fd.close()
  release()
})
