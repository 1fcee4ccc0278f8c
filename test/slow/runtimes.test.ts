import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { installedNode } from '../../scripts/node-release.mjs'
import { installedRuntime } from '../../scripts/runtimes.mjs'
import { startBackend } from '../support/backend.ts'
import { startBroker, type Status, unaccounted } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { FalseBroker } from '../support/false-broker.ts'
import { LIMIT } from '../support/limits.ts'
import { PassedClient } from '../support/passed-client.ts'
import { unreadBytes } from '../support/proc.ts'
import { Program, root } from '../support/process.ts'

// Other runtimes than Node, and Node with its permission model, as backends of a broker in Node.

const script = (name: string) => join(root, 'test/programs', name)
const bun = installedRuntime('bun')
const deno = [installedRuntime('deno'), 'run', '-A', '--no-lock'] as const
const node = join(installedNode('26').bin, 'node')

void t.test('backends in other runtimes', { timeout: LIMIT }, async (t) => {
  const app = new Program(t, bun, [script('listening-app.mjs')])
  const { port } = await app.message('listens')
  const broker = await startBroker(t, {
    config: {
      listeners: [
        { name: 'web', listen: '127.0.0.1:0', service: 'web' },
        { name: 'echo', listen: '127.0.0.1:0', protocol: 'tcp', service: 'echo' },
        { name: 'ws', listen: '127.0.0.1:0', service: 'ws' },
        { name: 'relayed', listen: '127.0.0.1:0', service: 'relayed' },
        { name: 'app', listen: '127.0.0.1:0', service: 'app' },
      ],
      services: {
        web: {},
        echo: {},
        ws: {},
        relayed: { handoff: 'off' },
        app: { upstreams: [{ address: `127.0.0.1:${Number(port)}` }] },
      },
    },
  })
  const start = (t: Test, command: readonly string[], service: string, env: NodeJS.ProcessEnv = {}) =>
    new Program(t, command[0] as string, [...command.slice(1), script('any-runtime-backend.mjs')], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: service, ...env },
    })

  await t.test(
    'Deno: a drain moves its idle connections to another process',
    { timeout: LIMIT },
    async (t) => {
      const program = start(t, deno, 'web')
      await program.message('ready')
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      const { body } = await client.get()
      t.equal(body, `${program.pid} ${client.socket.localPort}`)
      await startBackend(t, broker, 'http-backend.mjs')
      await broker.backends(2)
      program.kill('SIGTERM')
      t.same(await program.exited, { code: 0, signal: null })
      t.equal((await client.get()).status, 200, 'the client does not notice')
    },
  )

  // Deno's `fs.fchmodSync` answered EBADF, so that it registered without an endpoint, and each client waited for `holdTimeout`.
  for (const [name, command] of [
    ['Deno', deno],
    ['Bun', [bun]],
  ] as const) {
    await t.test(`${name}: relays`, { timeout: LIMIT }, async (t) => {
      const program = start(t, command, 'relayed')
      await program.message('ready')
      const client = await Client.open(t, { host: '127.0.0.1', port: broker.port('relayed') })
      t.equal((await client.get()).body, `${program.pid} ${client.socket.localPort}`)
      client.socket.destroy()
      program.kill('SIGTERM')
      t.same(await program.exited, { code: 0, signal: null })
    })
  }

  await t.test('Deno: a net server', { timeout: LIMIT }, async (t) => {
    const program = start(t, deno, 'echo', { SERVER: 'net' })
    await program.message('ready')
    const socket = connect(broker.port('echo'), '127.0.0.1')
    await once(socket, 'connect')
    socket.write('hello')
    t.equal(await text(socket), `${program.pid} hello`)
    program.kill('SIGTERM')
    t.same(await program.exited, { code: 0, signal: null })
  })

  await t.test('Bun: a net server', { timeout: LIMIT }, async (t) => {
    const program = start(t, [bun], 'echo', { SERVER: 'net' })
    await program.message('ready')
    const socket = connect(broker.port('echo'), '127.0.0.1')
    await once(socket, 'connect')
    socket.write('hello')
    t.equal(await text(socket), `${program.pid} hello`)
    program.kill('SIGTERM')
    t.same(await program.exited, { code: 0, signal: null })
  })

  await t.test(
    'Bun: a drain moves idle connections, and leaves those on which a request has begun',
    { timeout: LIMIT },
    async (t) => {
      const program = start(t, [bun], 'web')
      await program.message('ready')
      await broker.until(
        ({ services }) => services[0]?.backends.some(({ pid }) => pid === program.pid) === true,
        'Bun is there, alone or beside what another scene has left',
      )
      const open = () => Client.open(t, { host: '127.0.0.1', port: broker.port() })
      const clients: Client[] = []
      while (clients.length < 40) {
        const client = await open()
        if ((await client.get()).body.startsWith(`${program.pid} `)) clients.push(client)
      }
      const [begun, ...idle] = clients as [Client, ...Client[]]
      await new Promise((sent) => begun.socket.write('GET / HTTP/1.1\r\nHo', sent))
      await eventually(
        () => unreadBytes(broker.port(), begun.port) === 0,
        'Bun has read the first half of the request',
      )
      await startBackend(t, broker, 'http-backend.mjs')
      const handedBack = ({ services }: Status) => services[0]?.handedBack ?? 0
      const before = handedBack(await broker.status())
      program.kill('SIGTERM')
      await broker.until((status) => handedBack(status) - before === idle.length, 'the idle ones have moved')
      for (const client of idle) {
        const { status, body } = await client.get()
        t.equal(status, 200)
        t.notMatch(body, `${program.pid} `, 'another process')
      }
      begun.send('st: test\r\n\r\n')
      t.match((await begun.answer()).body, `${program.pid} `)
      t.same(await program.exited, { code: 0, signal: null })
      t.equal((await begun.get()).status, 200, 'it has moved as well')
    },
  )

  await t.test('Bun: a WebSocket moves to Node with its state', { timeout: LIMIT }, async (t) => {
    const program = new Program(t, bun, [script('ws-backend.mjs')], {
      env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'ws' },
    })
    await program.message('ready')
    const client = new WebSocket(`ws://${broker.address('ws')}`)
    t.teardown(() => client.terminate())
    const received: string[] = []
    client.on('message', (data: Buffer) => received.push(data.toString()))
    await once(client, 'open')
    client.send('first')
    await eventually(() => received.length === 1, 'its answer')
    await startBackend(t, broker, 'ws-backend.mjs', { env: { BATON_SERVICE: 'ws' } })
    program.kill('SIGTERM')
    await program.line((line) => line.includes('drained'), 'the end of its drain')
    client.send('second')
    await eventually(() => received.length === 2, 'an answer of the next process')
    t.same(received, ['1 first', '2 second'], 'it goes on counting')
  })

  for (const [name, command] of [
    ['Deno', deno],
    ['Bun', [bun]],
  ] as const) {
    await t.test(
      `${name}: a wrong token and one that is late are refused, and the connections stay untouched`,
      { timeout: LIMIT },
      async (t) => {
        const scripted = new FalseBroker(t)
        const [file, ...args] = [...command, script('listening-backend.mjs')] as [string, ...string[]]
        const program = new Program(t, file, args, {
          env: { BATON_SOCKET: scripted.control, BATON_SERVICE: 'web' },
        })
        const peer = await scripted.registered({ tokenTtl: 300 })
        await program.message('ready')
        const pending = peer.offer()
        const token = randomBytes(16)
        // `process.hrtime` counts from the start of the process there: no deadline ever passed.
        const late = peer.offer({ deadline: process.hrtime.bigint() - 1n })
        for (const [shown, offer, reason] of [
          [token, pending, 'TokenMismatch'],
          [late.token, late, 'TokenExpired'],
        ] as const) {
          const client = new PassedClient(t)
          peer.post(shown, client.fd)
          peer.ring(offer)
          t.equal((await peer.nacked(shown)).reason, reason)
          t.ok(client.untouched)
          t.equal(await client.closed(), '')
        }
        const right = new PassedClient(t)
        const offer = peer.offer({ deadline: process.hrtime.bigint() + 600_000_000_000n })
        peer.post(offer.token, right.fd)
        peer.ring(offer)
        await peer.acked(offer)
        t.equal(await right.servedBy(), program.pid)
        right.leave()
      },
    )
  }

  await t.test(
    'Bun: an https server is refused with the reason; as an upstream any server works',
    { timeout: LIMIT },
    async (t) => {
      const program = start(t, [bun], 'web', { SERVER: 'https' })
      t.match(await program.message('refused'), {
        code: 'BATON_ERR_UNSUPPORTED_RUNTIME',
        reason: /attach a tls server that gives its sockets to an http server/,
      })
      t.equal(await (await fetch(broker.url('/', 'app'))).text(), `app ${app.pid}`)
    },
  )

  await t.test('Node with --permission', { timeout: LIMIT }, async (t) => {
    const permitted = (...more: string[]) => [node, '--permission', '--allow-fs-read=*', ...more]
    const without = start(t, permitted('--allow-net'), 'web')
    await without.line((line) => /start Node with --allow-addons beside --permission/.test(line), 'the flag')
    const deaf = start(t, permitted('--allow-addons'), 'web')
    t.match(await deaf.message('refused'), {
      code: 'BATON_ERR_UNSUPPORTED_RUNTIME',
      reason: /start it with --allow-net beside --permission/,
    })
    const folder = dirname(broker.control)
    const program = start(
      t,
      permitted('--allow-addons', '--allow-net', `--allow-fs-write=${folder}`),
      'echo',
      {
        SERVER: 'net',
      },
    )
    await program.message('ready')
    const socket = connect(broker.port('echo'), '127.0.0.1')
    await once(socket, 'connect')
    socket.write('hello')
    t.equal(await text(socket), `${program.pid} hello`)
  })

  await t.test('every connection is accounted for', async () => {
    await broker.until((status) => unaccounted(status) === 0, 'accounts')
  })
})
