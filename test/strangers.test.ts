import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, readdirSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import {
  connectUnix,
  descriptorsCanBeRefused,
  NativeError,
  type OwnedFd,
  sendMessage,
} from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { type Broker, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { FalseBackend, hello } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'
import { masterStatus, operatorSocket } from './support/operator.ts'
import { Program, root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'
import { NOBODY } from './support/other-user.ts'

// Attacks on a broker by other users of the host, clients of Unix sockets and backends; none of them stops its work.

const asRoot = process.getuid?.() === 0
const withPython =
  spawnSync('python3', ['--version']).status !== 0 && process.env['CI'] === undefined && 'needs python3'

/** Seconds that a close would block: longer than any test may take. */
const LINGER = String(Math.ceil((10 * LIMIT) / 1000))

function lingering(t: Test, ...args: string[]): Program {
  return new Program(t, 'python3', [join(root, 'test/programs/lingering.py'), ...args])
}

/** Worker and master both handle requests: neither blocks in a close. */
async function bothAnswer(t: Test, broker: Broker): Promise<void> {
  const answer = await fetch(`${broker.admin}/healthz`)
  t.equal(answer.status, 200)
  t.ok((await masterStatus(t, broker)).master.pid > 1)
}

/** The result of sending a descriptor to this Unix socket. */
function sending(fd: number): string {
  try {
    sendMessage(fd, { bytes: Buffer.from('\n'), fds: [0] })
    return 'sent'
  } catch (error) {
    if (error instanceof NativeError) return error.code
    throw error
  }
}

void t.test('a broker among strangers', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o711)
  const unix = join(folder, 'web.sock')
  const upstream = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  t.teardown(() => upstream.close())
  const broker = await startBroker(t, {
    config: {
      runtimeDir: join(folder, 'run'),
      drainDeadline: 0,
      security: { allowUids: [process.getuid?.() ?? -1, NOBODY - 1] },
      listeners: [
        { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' },
        { name: 'unix', listen: `unix:${unix}`, protocol: 'http', service: 'brief' },
        { name: 'brief', listen: '127.0.0.1:0', protocol: 'http', service: 'brief' },
        { name: 'relayed', listen: '127.0.0.1:0', protocol: 'tcp', service: 'relayed' },
        { name: 'checked', listen: '127.0.0.1:0', protocol: 'http', service: 'checked' },
      ],
      services: {
        web: PATIENT,
        brief: { ...PATIENT, holdTimeout: '500ms' },
        relayed: {
          ...PATIENT,
          upstreams: [{ address: `127.0.0.1:${(upstream.address() as AddressInfo).port}` }],
        },
        checked: { ...PATIENT, healthCheck: { path: '/', interval: '100ms', timeout: '10m' } },
        managed: {
          command: [process.execPath, join(root, 'test/programs/descriptor-output.mjs')],
          instances: 1,
        },
      },
    },
  })
  const client = async (t: Test, listener: string) => {
    const socket = connect(broker.port(listener), '127.0.0.1').pause()
    t.teardown(() => socket.destroy())
    socket.on('error', () => {}).write('GET / HTTP/1.1\r\nHost: app\r\n\r\n')
    return socket
  }

  await t.test(
    'a descriptor whose close blocks freezes no process, whichever socket it is sent to',
    { skip: withPython },
    async (t) => {
      // If bytes are read without recvmsg(2), the kernel closes the descriptors sent with them in the reading process: for as long
      // as the sender chose, /healthz did not answer, or the master answered no operator.
      const doors = [broker.control, operatorSocket(broker), unix]
      const strangers = doors.map((door) =>
        lingering(t, 'send', door, LINGER, ...(asRoot ? [String(NOBODY)] : [])),
      )
      for (const stranger of strangers) await stranger.message('done')
      // The client of the Unix listener has been rejected and its connection closed.
      await broker.until(
        ({ services }) => (services.find(({ name }) => name === 'brief')?.outcomes.rejected ?? 0) >= 1,
        'the one that waits is rejected',
      )
      await bothAnswer(t, broker)
      await t.test('and each of them ends', async (t) => {
        for (const stranger of strangers) stranger.kill('SIGKILL')
        await bothAnswer(t, broker)
      })
    },
  )

  for (const answer of ['ack', 'nack']) {
    await t.test(
      `a backend that makes the close of a client block, and answers ${answer.toUpperCase()}, freezes no process`,
      { skip: withPython },
      async (t) => {
        // After an ACK as well: if the backend closes its own copy first, the broker has the last one.
        const backend = lingering(t, 'backend', broker.control, 'brief', answer, LINGER)
        await backend.message('ready')
        const before = (await broker.status()).services.find(({ name }) => name === 'brief')?.outcomes
        await client(t, 'brief')
        await backend.message('answered')
        const outcome = answer === 'ack' ? 'handed_off' : 'rejected'
        await broker.until(
          ({ services }) =>
            (services.find(({ name }) => name === 'brief')?.outcomes[outcome] ?? 0) >
            (before?.[outcome] ?? 0),
          `it is ${outcome}`,
        )
        await bothAnswer(t, broker)
        backend.kill('SIGKILL')
        await broker.backends(0, 'brief')
      },
    )
  }

  await t.test(
    'socket options set by one backend are reset before the client is offered to another',
    { skip: withPython },
    async (t) => {
      // A backend that refused such a client could freeze the honest backend that closed it later.
      const hostile = lingering(t, 'backend', broker.control, 'web', 'nack', LINGER)
      await hostile.message('ready')
      await client(t, 'web')
      await hostile.message('answered')
      const honest = lingering(t, 'look', broker.control, 'web')
      t.match(await honest.message('offered'), { lingers: 0, blocking: false })
      hostile.kill('SIGKILL')
      honest.kill('SIGKILL')
      await broker.backends(0)
    },
  )

  await t.test(
    'a backend that refused a client and keeps a copy of it cannot block the end of its relay',
    { skip: withPython },
    async (t) => {
      // libuv closes the client's socket when a relay ends, and knows nothing about this.
      const hostile = lingering(t, 'keep', broker.control, 'relayed', LINGER)
      await hostile.message('ready')
      const arrived = once(upstream, 'connection')
      const socket = await client(t, 'relayed')
      await hostile.message('refused')
      const [carried] = (await arrived) as [Socket]
      hostile.say('now')
      await hostile.message('closed')
      carried.resume().end()
      socket.end()
      await once(carried, 'close')
      await broker.until(
        ({ services }) => services.find(({ name }) => name === 'relayed')?.outcomes.relayed === 1,
        'it was relayed',
      )
      await bothAnswer(t, broker)
      t.equal(await broker.metric('baton_relay_connections{service="relayed"}'), 0)
    },
  )

  await t.test(
    'descriptors are refused on every Unix socket that needs none',
    { skip: !descriptorsCanBeRefused() && 'SO_PASSRIGHTS is Linux 6.16’s' },
    async (t) => {
      const dial = (path: string): OwnedFd => {
        const fd = connectUnix(path)
        t.teardown(() => fd.close())
        return fd
      }
      for (const path of [broker.control, operatorSocket(broker), unix])
        t.equal(sending(dial(path).fd), 'EPERM', path)
      const backend = await FalseBackend.register(t, broker.control, hello('checked'))
      t.equal(sending(backend.wire.fd.fd), 'EPERM', 'control, of a backend that has registered')
      t.equal(sending(backend.lane.fd), 'EPERM', 'the lane, in the direction that nothing reads')
      const [probe] = await backend.offers(1)
      const [taken] = backend.take(1)
      t.equal(probe?.listener, 'baton:health')
      t.equal(sending(taken?.fd.fd ?? -1), 'EPERM', 'the connection of a health check')
      backend.die()
      await startBackend(t, broker, 'http-backend.mjs', { service: 'brief' })
      const [endpoint = ''] = readdirSync(join(folder, 'run')).filter((name) => name.startsWith('relay-'))
      t.equal(
        sending(dial(join(folder, 'run', endpoint)).fd),
        'EPERM',
        'the endpoint of a backend for relays',
      )
      const line = await broker.program.line(
        (text) => text.includes('a descriptor along with output'),
        'its output',
      )
      t.match(line, /EPERM, EPERM/, 'standard output and standard error of a process that the master started')
    },
  )

  await t.test('a repeated ACK does not count as load', async (t) => {
    // Load is ACKs minus closes. A backend, through a bug or on purpose, could make itself look so busy that the
    // others got all connections.
    const backend = await FalseBackend.register(t, broker.control, hello('web'))
    await client(t, 'web')
    const [offer] = await backend.offers(1)
    if (offer === undefined) throw new Error('no offer')
    backend.take(1)
    for (let count = 0; count < 100; count++) backend.ack(offer)
    await backend.probe()
    const { services } = await broker.status()
    t.match(services.find(({ name }) => name === 'web')?.backends, [{ load: 1, adopted: 1 }])
    backend.die()
    await broker.backends(0)
  })

  await t.test('a refused client is offered to the next backend that joins', async (t) => {
    // It was also offered again to the first backend, which had just refused it.
    const COUNT = 6
    const first = await FalseBackend.register(t, broker.control, hello('web'))
    const clients = await Promise.all(
      Array.from({ length: COUNT }, () => Client.open(t, { host: '127.0.0.1', port: broker.port() })),
    )
    const offers = await first.offers(COUNT)
    for (const { fd } of first.take(COUNT)) fd.close()
    for (const offer of offers) first.nack(offer)
    await broker.until(({ services }) => services[0]?.held === COUNT, 'all wait')
    const second = await FalseBackend.register(t, broker.control, hello('web'))
    second.wire.answersProbes = true
    const again = await second.offers(COUNT)
    t.equal(again.length, COUNT)
    await first.probe()
    t.equal(first.wire.all('offer').flatMap(({ offers: all }) => all).length, COUNT)
    second.take(COUNT)
    second.ack(...again)
    await second.probe()
    for (const { socket } of clients) socket.destroy()
    second.die()
    first.die()
    await broker.backends(0)
  })

  await t.test('a HELLO with an endless text is refused, and the log names the member', async (t) => {
    // `version` could be as long as a frame, and was stored, logged and shown for as long as the backend was registered.
    const text = JSON.stringify({
      protocol: 1,
      capabilities: [],
      service: 'web',
      version: 'v'.repeat(60_000),
      weight: 1,
      pid: process.pid,
      sdk: 'by hand',
    })
    const bytes = Buffer.alloc(5 + Buffer.byteLength(text))
    bytes.writeUInt32LE(bytes.length - 4)
    bytes.writeUInt8(1, 4)
    bytes.write(text, 5)
    await t.rejects(FalseBackend.register(t, broker.control, bytes))
    const logged = await broker.program.message('a process connected and broke the protocol')
    t.match(logged, { code: 'BATON_ERR_FRAME_MALFORMED', reason: /"version".*at most 128 characters/ })
  })
})
