import net, { type Socket } from 'node:net'
import t from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { LineClient } from '../../../test/support/line-client.ts'
import { createBackend } from '../src/index.ts'
import type { RawMigration } from '../src/migrate/raw.ts'
import { takeUnread } from '../src/migrate/socket-state.ts'
import { Side } from './two-sides.ts'

interface Session {
  count: number
  /** The beginning of a line. */
  rest: Buffer
}

/** A protocol of lines: each is echoed with its number. */
function lines(options: Partial<RawMigration<{ count: number }>> = {}): Side {
  const sessions = new WeakMap<Socket, Session>()
  const server = net.createServer((socket) => {
    const session: Session = { count: 0, rest: Buffer.alloc(0) }
    sessions.set(socket, session)
    socket.on('error', () => undefined)
    socket.on('data', (chunk) => {
      session.rest = Buffer.concat([session.rest, chunk])
      for (let end = session.rest.indexOf(10); end !== -1; end = session.rest.indexOf(10)) {
        session.count += 1
        socket.write(`${session.count} ${session.rest.toString('latin1', 0, end + 1)}`)
        session.rest = session.rest.subarray(end + 1)
      }
    })
  })
  return new Side(server, {
    schema: 'lines/1',
    state: (socket) => {
      const session = sessions.get(socket)
      if (session === undefined) return undefined
      socket.unshift(session.rest)
      session.rest = Buffer.alloc(0)
      return { count: session.count }
    },
    resume: (socket, state) => {
      const session = sessions.get(socket)
      if (session !== undefined) session.count = (state as { count: number }).count
    },
    ...options,
  })
}

void t.test(
  'lines that are cut anywhere, while the connection moves: each is answered once, in order',
  { timeout: LIMIT },
  async (t) => {
    const sides = [lines(), lines()] as const
    const client = new LineClient(t, await sides[0].listen(t))
    t.teardown(() => sides[1].attachment.destroyAll())
    let moved = 0
    for (let turn = 0; turn < 200; turn++) {
      client.sent += 1
      const line = `line ${client.sent}\n`
      const cut = turn % line.length
      for (const part of [line.slice(0, cut), line.slice(cut)]) {
        client.socket.write(part)
        await new Promise((resolve) => setImmediate(resolve))
        moved += sides[0].moveAll(sides[1])
        if (turn % 3 === 0) moved += sides[1].moveAll(sides[0])
        if (turn % 7 === 0) moved += sides[1].moveAll(sides[0])
      }
    }
    await eventually(() => client.received.length >= client.expected.length, 'all is answered')
    t.equal(client.received, client.expected)
    t.ok(moved > 20, `${moved} moves`)
    t.same([...sides[0].logged, ...sides[1].logged], [])
  },
)

void t.test(
  'a state that is not ready, or fails, leaves the connection as it was',
  { timeout: LIMIT },
  async (t) => {
    let state: () => unknown = () => undefined
    const side = lines({ state: (() => state()) as () => { count: number } })
    const next = lines()
    const client = new LineClient(t, await side.listen(t))
    const answered = async () => {
      client.sent += 1
      client.socket.write(`line ${client.sent}\n`)
      await eventually(() => client.isAnswered, 'it goes on')
    }
    await answered()
    t.equal(side.moveAll(next), 0)
    await answered()
    state = () => {
      throw new Error('a bug')
    }
    t.throws(() => side.moveAll(next), { code: 'BATON_ERR_STATE_FAILED' })
    await answered()
  },
)

void t.test('all that was read and not consumed is taken, also of a socket that flows', async (t) => {
  // The rest behind the first portion was lost.
  const socket = new net.Socket()
  t.teardown(() => socket.destroy())
  socket.unshift(Buffer.from('two'))
  socket.unshift(Buffer.from('one '))
  const listener = () => undefined
  socket.on('data', listener)
  const { unread, listeners } = takeUnread(socket)
  t.equal(unread.toString(), 'one two')
  t.same(listeners, [listener])
})

void t.test('a resume that throws, or rejects, closes the connection', { timeout: LIMIT }, async (t) => {
  const failing = {
    throws: () => {
      throw new Error('a bug')
    },
    // The types allow it: the rejection was unhandled, which ends the process.
    rejects: (): unknown => Promise.reject(new Error('a bug')),
  }
  for (const [how, resume] of Object.entries(failing)) {
    const side = lines()
    const next = lines({ resume })
    const client = new LineClient(t, await side.listen(t))
    await eventually(() => side.moveAll(next) === 1, `it moves: ${how}`)
    await eventually(() => client.ended, `closed: ${how}`)
    t.match(next.logged, [{ error: { code: 'BATON_ERR_RESUME_FAILED' }, cause: { message: 'a bug' } }], how)
  }
})

void t.test(
  'a socket that decodes does not move: a character may be half read',
  { timeout: LIMIT },
  async (t) => {
    const side = lines()
    const client = new LineClient(t, await side.listen(t))
    await eventually(() => [...side.mover.connections()].length === 1, 'it is here')
    for (const socket of side.mover.connections()) socket.setEncoding('utf8')
    t.equal(side.moveAll(lines()), 0)
    client.socket.destroy()
  },
)

void t.test('what cannot be an option is refused', async (t) => {
  const good = { schema: 'lines/1', state: () => 1, resume: () => undefined }
  const attach = (migrate: unknown, server: net.Server = net.createServer()) =>
    createBackend({ service: 'web', logger: false }).attach(server, { migrate: migrate as RawMigration })
  const code = 'BATON_ERR_INVALID_OPTION'
  for (const options of [
    { ...good, schema: '' },
    { ...good, schema: 'x'.repeat(256) },
    { ...good, accepts: [1] },
    { ...good, accepts: 'lines/1' },
    { ...good, accepts: Array.from({ length: 65 }, (_, index) => `lines/${index}`) },
    { ...good, state: undefined },
    { ...good, resume: {} },
  ])
    t.throws(() => attach(options), { code }, JSON.stringify(options).slice(0, 60))
  const { createServer } = await import('node:http')
  const server = createServer()
  t.throws(() => attach(good, server), { code, message: /net servers/ })
  t.doesNotThrow(() => createBackend({ service: 'web', logger: false }).attach(server), 'it is not attached')
})
