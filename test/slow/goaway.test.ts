import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type ClientHttp2Session, connect as connectHttp2, constants } from 'node:http2'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { temporaryFolder } from '../support/process.ts'

// Clients of HTTP/2 whose backend drains, at a round trip of 50 ms. The table in docs/how-to/tls.md is from here.

const ONE_WAY_MS = 25
const EVERY_MS = 2

const folder = temporaryFolder(t)
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const request = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
const name = '-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1'
execFileSync('openssl', [...`${request} ${name}`.split(' '), '-keyout', KEY, '-out', CERTIFICATE], {
  stdio: 'pipe',
})

/** Delays everything, in both directions. */
async function farFrom(t: Test, port: number): Promise<number> {
  const carry = (from: Socket, to: Socket) => {
    const later = (what: () => void) => setTimeout(() => to.destroyed || what(), ONE_WAY_MS)
    from.on('error', () => {}).on('data', (data) => later(() => to.write(data)))
    from.on('end', () => later(() => to.end()))
  }
  const relay = createServer({ allowHalfOpen: true }, (client) => {
    const server = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    carry(client, server)
    carry(server, client)
    t.teardown(() => {
      client.destroy()
      server.destroy()
    })
  }).listen(0, '127.0.0.1')
  await once(relay, 'listening')
  t.teardown(() => relay.close())
  return (relay.address() as AddressInfo).port
}

type Outcome = 'answered' | 'refused' | 'failed'

function ask(session: ClientHttp2Session): Promise<Outcome> {
  return new Promise((resolve) => {
    const stream = session.request({ ':path': '/' })
    stream.on('error', () =>
      resolve(stream.rstCode === constants.NGHTTP2_REFUSED_STREAM ? 'refused' : 'failed'),
    )
    stream.on('end', () => resolve('answered')).resume()
  })
}

void t.test('clients of HTTP/2 when their backend drains', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      listeners: ['plain', 'tls'].map((service) => ({
        name: service,
        listen: '127.0.0.1:0',
        protocol: 'tcp',
        service,
      })),
      services: { plain: {}, tls: {} },
    },
  })
  for (const [service, env, ca] of [
    ['plain', {}, undefined],
    ['tls', { KEY, CERTIFICATE }, readFileSync(CERTIFICATE)],
  ] as const) {
    await t.test(service, { timeout: LIMIT }, async (t) => {
      const program = await startBackend(t, broker, 'h2c-backend.mjs', { service, env })
      const port = await farFrom(t, broker.port(service))
      const scheme = ca === undefined ? 'http' : 'https'
      const session = connectHttp2(`${scheme}://localhost:${port}`, ca === undefined ? {} : { ca })
      session.on('error', () => {})
      t.teardown(() => session.destroy())
      await once(session, 'remoteSettings')
      t.equal(await ask(session), 'answered')
      const asked: Promise<Outcome>[] = []
      const ended = once(session, 'goaway')
      const asking = setInterval(() => asked.push(ask(session)), EVERY_MS)
      await eventually(() => asked.length >= 40, 'requests are on their way')
      program.kill('SIGTERM')
      await ended
      clearInterval(asking)
      const counts = new Map<Outcome, number>()
      for (const outcome of await Promise.all(asked)) counts.set(outcome, (counts.get(outcome) ?? 0) + 1)
      t.comment(
        `${process.version}, ${service}: ${asked.length} requests, ${JSON.stringify(Object.fromEntries(counts))}`,
      )
      t.equal(counts.get('failed') ?? 0, 0, 'nothing fails but what may be repeated')
      // One that is made when the notice has arrived and the app has not heard of it is refused by the client itself.
      if (service === 'plain') t.ok((counts.get('refused') ?? 0) <= 1, 'none that was sent is refused')
      t.same(await program.exited, { code: 0, signal: null })
    })
  }
})
