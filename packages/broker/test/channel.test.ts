import {
  createMemoryFile,
  createPipe,
  dup,
  type OwnedFd,
  Poller,
  sendMessage,
  socketpair,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { Channel, MAX_DESCRIPTORS, type Message } from '../src/ipc/channel.ts'
import { createLogger } from '../src/log/logger.ts'
import { WorkerCopies } from '../src/master/workers/worker-copies.ts'
import { Copier } from '../src/worker/copies/copier.ts'
import { systemOs } from '../src/worker/os.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'

// The channel between two processes of one broker: both ends here, over a real socketpair.

interface Note extends Message {
  readonly type: 'note'
  readonly text: string
}

class Stage {
  readonly received: { note: Note; fds: readonly OwnedFd[]; turn: number }[] = []
  ended = false
  readonly sender: Channel<never, Note>
  readonly poller: Poller
  readonly #theirs: OwnedFd
  #receiver: Channel<Note, never> | undefined
  #turn = 0
  #changed = () => {}
  readonly #t: Test

  constructor(t: Test) {
    this.#t = t
    this.poller = new Poller({ ring: false })
    const [ours, theirs] = socketpair('stream')
    this.#theirs = theirs
    this.sender = new Channel<never, Note>(ours, this.poller, { message: () => {}, ended: () => {} })
    let counts = true
    const count = () => {
      this.#turn += 1
      if (counts) setImmediate(count)
    }
    count()
    t.teardown(() => {
      counts = false
      this.sender.close()
      this.die()
      for (const { fds } of this.received) for (const fd of fds) fd.close()
      this.poller.close()
    })
  }

  /** Until now, what was sent waits in the kernel. */
  read(): void {
    this.#receiver = new Channel<Note, never>(this.#theirs, this.poller, {
      message: (note, fds) => {
        this.received.push({ note, fds, turn: this.#turn })
        this.#changed()
      },
      ended: (error) => {
        this.ended = true
        this.#t.error(error)
      },
    })
  }

  /** Before `read`. The sender never reads it. */
  leaveUnread(): void {
    sendMessage(this.#theirs.fd, { bytes: Buffer.from('unread'), fds: [] })
  }

  die(): void {
    if (this.#receiver === undefined) this.#theirs.close()
    else this.#receiver.close()
  }

  async until(count: number): Promise<void> {
    if (this.received.length < count)
      await new Promise<void>((resolve) => (this.#changed = () => this.received.length >= count && resolve()))
  }
}

/** Descriptors that can be told apart by nothing but their owner. */
function descriptors(t: Test, count: number): OwnedFd[] {
  const fds = Array.from({ length: count / 2 }, () => createPipe()).flat()
  t.teardown(() => fds.forEach((fd) => fd.close()))
  return fds
}

void t.test('a message is copied a few times, however long it is', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const text = 'x'.repeat(16 * 1024 * 1024)
  const concat = Buffer.concat.bind(Buffer)
  let copied = 0
  Buffer.concat = (list, ...rest) => {
    const joined = concat(list, ...rest)
    copied += joined.length
    return joined
  }
  t.teardown(() => {
    Buffer.concat = concat
  })
  stage.read()
  stage.sender.send({ type: 'note', text })
  stage.sender.send({ type: 'note', text: 'next' })
  await stage.until(2)
  t.ok(stage.received[0]?.note.text === text)
  t.equal(stage.received[1]?.note.text, 'next')
  t.ok(copied < 3 * text.length, `${copied} bytes`)
})

void t.test(
  'messages of every size arrive as they were sent, with their descriptors',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    stage.read()
    const sent = Array.from({ length: 200 }, (_, index) => ({
      text: 'é'.repeat((index * index * 37) % 90_000),
      fds: descriptors(t, (index % 4) * 2),
    }))
    for (const { text, fds } of sent)
      stage.sender.send(
        { type: 'note', text },
        fds.map(({ fd }) => fd),
      )
    await stage.until(sent.length)
    t.same(
      stage.received.map(({ note, fds }) => [note.text.length, fds.length]),
      sent.map(({ text, fds }) => [text.length, fds.length]),
    )
    t.throws(
      () => stage.sender.send({ type: 'note', text: '' }, Array(MAX_DESCRIPTORS + 1).fill(0)),
      RangeError,
    )
  },
)

// A leaving worker passes thousands of connections on. Its successor, which has clients of its own, read all of them in one turn.
void t.test('many messages are read in several turns of the event loop', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const count = 100
  for (let index = 0; index < count; index++)
    stage.sender.give({ type: 'note', text: String(index) }, descriptors(t, 2))
  await stage.sender.sent()
  stage.read()
  await stage.until(count)
  t.same(
    stage.received.map(({ note }) => Number(note.text)),
    Array.from({ length: count }, (_, index) => index),
  )
  const turns = new Set(stage.received.map(({ turn }) => turn)).size
  t.ok(turns >= 5, `${turns} turns`)
})

void t.test(
  'what has not been sent when the other end dies comes back, once',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    const back: number[] = []
    const text = 'x'.repeat(20_000)
    const count = 60
    for (let index = 0; index < count; index++)
      stage.sender.give({ type: 'note', text }, descriptors(t, 2), (fds) => {
        back.push(index)
        t.equal(fds.length, 2)
        for (const fd of fds) fd.close()
      })
    t.same(back, [])
    t.equal(stage.sender.quiet, false, 'the kernel has not taken all of it')
    stage.die()
    await stage.sender.sent()
    await new Promise(setImmediate)
    t.equal(stage.sender.open, false)
    t.ok(back.length > 10 && back.length < count, `${back.length} of ${count}`)
    t.same(
      back,
      Array.from({ length: back.length }, (_, index) => count - back.length + index),
      'the last ones, in order',
    )

    const late: number[] = []
    const fds = descriptors(t, 2)
    stage.sender.give({ type: 'note', text }, fds, (those) => {
      late.push(those.length)
      for (const fd of those) fd.close()
    })
    t.same(late, [], 'not before the call returns')
    await new Promise(setImmediate)
    t.same(late, [2])
  },
)

void t.test('there is no room long before something waits in this process', { timeout: LIMIT }, async (t) => {
  const stage = new Stage(t)
  const { sender } = stage
  t.ok(sender.hasRoom)
  await sender.room()
  let sent = 0
  for (; sender.hasRoom; sent++) sender.give({ type: 'note', text: 'x'.repeat(1000) }, descriptors(t, 2))
  for (let more = 0; more < 40; more++, sent++) sender.send({ type: 'note', text: 'x'.repeat(1000) })
  t.ok(sender.quiet, 'a slice fits all the same')
  let isThere = false
  void sender.room().then(() => (isThere = true))
  // Rounds of the poller.
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate)
  t.notOk(isThere)
  stage.read()
  await eventually(() => isThere, 'there is room again')
  await stage.until(sent)
  t.ok(sender.hasRoom)
  stage.die()
  t.ok(sender.hasRoom, 'after its end, what is sent comes back at once')
  await sender.room()
})

// A worker was killed while a message of its master's waited in its socket. The master's next read failed with ECONNRESET, it took that for the end of
// the stream, and gave up all copies of waiting connections: their clients were lost.
void t.test(
  'what the other end sent before it died is read, whatever it has left unread',
  { timeout: LIMIT },
  async (t) => {
    const stage = new Stage(t)
    for (let index = 0; index < 3; index++)
      stage.sender.give({ type: 'note', text: String(index) }, descriptors(t, 2))
    stage.leaveUnread()
    stage.sender.close()
    stage.read()
    await eventually(() => stage.ended, 'the end')
    t.same(
      stage.received.map(({ note, fds }) => [note.text, fds.length]),
      ['0', '1', '2'].map((text) => [text, 2]),
    )
  },
)

void t.test(
  "a copy that the master's former program has not read does not outlive its connection",
  { timeout: LIMIT },
  async (t) => {
    const [ours, theirs] = socketpair('stream')
    const file = createMemoryFile('copies')
    const masters = dup(file.fd)
    const [client, fd] = socketpair('stream')
    // In the turn in which the next program asks for the copies, the connection ends.
    let asked = () => {}
    const workerPoller = new Poller({ afterWake: () => asked() })
    const poller = new Poller()
    const keeper = new Copier([theirs, file], workerPoller, 100).of('web')
    const listener = { name: 'web', protocol: 'http' } as const
    const kept = keeper.keep({ fd, listener, id: Buffer.alloc(16), idleUntil: Number.POSITIVE_INFINITY })
    await eventually(() => systemOs.peek(ours.fd, 1)?.length === 1, 'the copy is on its way')
    asked = () => {
      keeper.over([kept])
      if (!fd.closed) fd.close()
    }
    const state = { channel: ours.release(), file: masters.release() }
    const copies = WorkerCopies.adopt(state, poller, createLogger('json'), () => {})
    t.teardown(() => {
      copies.take()
      client.close()
      poller.close()
      workerPoller.close()
    })
    await eventually(() => systemOs.peek(client.fd, 1)?.length === 0, 'the client sees the end')
  },
)
