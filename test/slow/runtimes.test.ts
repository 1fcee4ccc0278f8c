import { once } from 'node:events'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { installedNode } from '../../scripts/node-release.mjs'
import { installedRuntime } from '../../scripts/runtimes.mjs'
import { startBackend } from '../support/backend.ts'
import { startBroker, unaccounted } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { LIMIT } from '../support/limits.ts'
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
        { name: 'app', listen: '127.0.0.1:0', service: 'app' },
      ],
      services: { web: {}, echo: {}, app: { upstreams: [{ address: `127.0.0.1:${Number(port)}` }] } },
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

  await t.test(
    'Bun: it does not register, and says why; as an upstream it serves',
    { timeout: LIMIT },
    async (t) => {
      const program = start(t, [bun], 'echo', { SERVER: 'net' })
      t.match(await program.message('refused'), {
        code: 'BATON_ERR_UNSUPPORTED_RUNTIME',
        reason: /Bun 1\.4\.\d+: new net\.Socket\(\{ fd \}\) does not adopt a descriptor/,
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
