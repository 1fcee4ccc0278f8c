import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker, unaccounted } from './support/broker.ts'
import { GrpcCalls } from './support/grpc-calls.ts'
import { LIMIT } from './support/limits.ts'
import { say } from './support/operator.ts'
import { root, temporaryFolder } from './support/process.ts'

// A gRPC server of @grpc/grpc-js as a backend.

/** test/slow/grpc.test.ts, which CI runs, makes more of them. */
const DEPLOYS = Number(process.env['DEPLOYS'] ?? 1)
const CONCURRENT = 50

const folder = temporaryFolder(t)
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const request = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
const name = '-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1'
execFileSync('openssl', [...`${request} ${name}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
  stdio: 'pipe',
})

void t.test('gRPC services under one broker', { timeout: DEPLOYS * LIMIT }, async (t) => {
  const command = [process.execPath, join(root, 'test/programs/grpc-backend.mjs')]
  const service = { command, instances: 2, minHealthy: '1ms' }
  const broker = await startBroker(t, {
    config: {
      listeners: ['plain', 'tls', 'manual'].map((service) => ({
        name: service,
        listen: '127.0.0.1:0',
        protocol: 'tcp',
        service,
      })),
      services: { plain: service, tls: { ...service, env: { KEY, CERTIFICATE } }, manual: {} },
    },
  })

  for (const [name, ca] of [
    ['plain', undefined],
    ['tls', readFileSync(CERTIFICATE)],
  ] as const) {
    await t.test(
      `${name}: ${CONCURRENT} calls at a time over ${DEPLOYS === 1 ? 'a deploy' : `${DEPLOYS} deploys`}, and none fails`,
      async (t) => {
        await broker.backends(2, name)
        const client = new GrpcCalls(t, `localhost:${broker.port(name)}`, ca)
        t.match(
          await client.whoami(0),
          /^\d+ 127\.0\.0\.1:\d+$/,
          'the server knows the address of the client',
        )
        const loads = client.load(CONCURRENT)
        const other = new GrpcCalls(t, `localhost:${broker.port(name)}`, ca)
        const others = other.load(1)
        for (let deploy = 0; deploy < DEPLOYS; deploy += 1)
          t.match(await say(t, broker, `deploy ${name}`), /^Success=1$/m)
        client.stop()
        other.stop()
        const { calls, failed, pids } = await loads
        t.same([...failed], [], `${calls} calls`)
        t.same([...(await others).failed], [])
        t.ok(
          pids.size > DEPLOYS,
          `${pids.size} processes have answered the client on its one connection at a time`,
        )
        t.comment(`${calls} calls, ${pids.size} processes`)
      },
    )
  }

  await t.test('tryShutdown() drains: a call in progress is answered, and the process ends', async (t) => {
    const program = await startBackend(t, broker, 'grpc-backend.mjs', {
      service: 'manual',
      env: { SHUTDOWN: 'yes' },
    })
    const client = new GrpcCalls(t, `localhost:${broker.port('manual')}`)
    t.match(await client.whoami(0), String(program.pid))
    const slow = client.count(100)
    await client.whoami(0)
    program.kill('SIGTERM')
    t.equal((await slow).length, 5)
    await program.message('shut down')
    t.same(await program.exited, { code: 0, signal: null })
  })

  await t.test('every connection is accounted for', async () => {
    await broker.until((status) => unaccounted(status) === 0, 'accounts')
  })
})
