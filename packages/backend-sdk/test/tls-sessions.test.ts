import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { temporaryFolder } from '../../../test/support/process.ts'
import { isWholeHello } from '../src/attach/client-hello.ts'
import { front, type Front } from './attach-front.ts'

// Keys for session tickets on an attached server, without a broker.

const folder = temporaryFolder(t)
const [KEY, CERTIFICATE] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')]
const request =
  'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
execFileSync('openssl', [...request.split(' '), '-keyout', KEY, '-out', CERTIFICATE], { stdio: 'pipe' })
const identity = { key: readFileSync(KEY), cert: readFileSync(CERTIFICATE) }

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const
const [first, second, third] = [0, 1, 2].map(() => randomBytes(48).toString('base64')) as [
  string,
  string,
  string,
]

/** A server that says whether the session was resumed. */
function sayingServer(t: Test, options: tls.TlsOptions = {}): tls.Server {
  const server = tls.createServer({ ...identity, ...options }, (socket) => {
    socket.on('error', () => {})
    socket.end(socket.isSessionReused() ? 'resumed' : 'full')
  })
  server.on('tlsClientError', (error) => t.comment(String(error)))
  return server
}

interface Visit {
  readonly answer: string
  readonly session: Buffer | undefined
}

async function visit(port: number, version: tls.SecureVersion, session?: Buffer): Promise<Visit> {
  const socket = tls.connect({
    port,
    host: '127.0.0.1',
    rejectUnauthorized: false,
    minVersion: version,
    maxVersion: version,
    session,
  })
  let kept = session
  let answer = ''
  socket.on('session', (ticket: Buffer) => (kept = ticket)).on('data', (data) => (answer += String(data)))
  await once(socket, 'close')
  return { answer, session: kept }
}

/** Writes the ClientHello in pieces, each after the one before has been read by the kernel. */
async function visitSlowly(at: Front, session: Buffer): Promise<string> {
  const raw = connectTcp(at.port, '127.0.0.1')
  await once(raw, 'connect')
  raw.setNoDelay(true)
  const write = raw.write.bind(raw)
  let hello = true
  raw.write = ((bytes: Buffer, ...rest: unknown[]) => {
    if (!hello) return Reflect.apply(write, raw, [bytes, ...rest])
    hello = false
    for (let from = 0; from < bytes.length; from += 100)
      setTimeout(() => write(bytes.subarray(from, from + 100)), from / 10)
    for (const done of rest) if (typeof done === 'function') process.nextTick(done)
    return true
  }) as typeof raw.write
  // Not the descriptor itself: TLSSocket would write past this method.
  const through = new (await import('node:stream')).Duplex({
    read() {},
    write: (chunk: Buffer, _encoding, done) => void raw.write(chunk, () => done()),
  })
  raw.on('data', (chunk) => through.push(chunk)).on('end', () => through.push(null))
  const socket = tls.connect({ socket: through, rejectUnauthorized: false, maxVersion: 'TLSv1.3', session })
  let answer = ''
  for await (const data of socket) answer += String(data)
  raw.destroy()
  return answer
}

void t.test('sessions resume by the keys of the broker', { timeout: LIMIT }, async (t) => {
  const one = await front(t, sayingServer(t), 'web')
  const two = await front(t, sayingServer(t), 'web')
  const use = (...keys: string[]) => {
    for (const { attachment } of [one, two]) attachment.tlsSessions?.use(keys)
  }
  for (const version of VERSIONS) {
    await t.test(version, async (t) => {
      use(first)
      const { session, answer } = await visit(one.port, version)
      t.equal(answer, 'full')
      t.equal((await visit(two.port, version, session)).answer, 'resumed', 'in another server')

      use(second, first)
      const both = await Promise.all(
        [session, undefined, session, undefined, session].map((each) => visit(two.port, version, each)),
      )
      t.same(
        both.map(({ answer }) => answer),
        ['resumed', 'full', 'resumed', 'full', 'resumed'],
        'tickets of the previous key resume beside others',
      )
      const newer = both[1]?.session
      t.equal((await visit(one.port, version, newer)).answer, 'resumed', 'new tickets have the new key')
      if (version === 'TLSv1.3' && session !== undefined)
        t.equal(await visitSlowly(two, session), 'resumed', 'a ClientHello in pieces')

      use(third, second)
      t.equal((await visit(two.port, version, newer)).answer, 'resumed')
      t.equal((await visit(two.port, version, session)).answer, 'full', 'two keys are valid')
    })
  }

  await t.test('what is no ClientHello, and a client that leaves, disturb nothing', async (t) => {
    use(second, first)
    const nonsense = connectTcp(one.port, '127.0.0.1')
    nonsense.on('error', () => {}).end('GET / HTTP/1.1\r\n\r\n')
    const silent = connectTcp(one.port, '127.0.0.1')
    silent.on('error', () => {}).end()
    for (const socket of [nonsense, silent]) {
      socket.resume()
      await once(socket, 'close')
    }
    t.equal((await visit(one.port, 'TLSv1.3')).answer, 'full')
    await one.attachment.whenEmpty()
    t.equal(one.attachment.live, 0)
  })

  await t.test('a certificate that is renewed in place keeps them', async (t) => {
    use(second, first)
    const { session } = await visit(one.port, 'TLSv1.3')
    ;(two.attachment.server as tls.Server).setSecureContext(identity)
    t.equal((await visit(two.port, 'TLSv1.3', session)).answer, 'resumed')
  })

  await t.test('a broker that gives none any more', async (t) => {
    const { session } = await visit(one.port, 'TLSv1.3')
    two.attachment.tlsSessions?.forget()
    t.equal((await visit(two.port, 'TLSv1.3', session)).answer, 'full')
  })

  await t.test('keys of the app', async (t) => {
    const own = randomBytes(48)
    ;(two.attachment.server as tls.Server).setTicketKeys(own)
    use(second, first)
    t.same((two.attachment.server as tls.Server).getTicketKeys(), own, 'setTicketKeys() is the last word')
  })
})

void t.test('servers that keep their own', async (t) => {
  const own = await front(t, sayingServer(t, { ticketKeys: randomBytes(48) }), 'web')
  t.equal(own.attachment.tlsSessions, undefined, 'created with ticketKeys')
  const asks = await front(t, sayingServer(t, { requestCert: true, ca: identity.cert }), 'web')
  t.equal(asks.attachment.tlsSessions, undefined, 'asks for client certificates')
  const off = await front(t, sayingServer(t))
  t.equal(off.attachment.tlsSessions, undefined, 'told not to')
  const named = sayingServer(t, { sessionIdContext: 'mine' })
  const context = await front(t, named, 'web')
  context.attachment.tlsSessions?.use([first])
  const { session } = await visit(context.port, 'TLSv1.3')
  const other = await front(t, sayingServer(t), 'web')
  other.attachment.tlsSessions?.use([first])
  t.equal((await visit(context.port, 'TLSv1.3', session)).answer, 'resumed')
  t.equal((await visit(other.port, 'TLSv1.3', session)).answer, 'full', 'its sessionIdContext is kept')
})

void t.test('isWholeHello', async (t) => {
  const record = (body: Buffer) =>
    Buffer.concat([Buffer.from([22, 3, 1, body.length >> 8, body.length & 255]), body])
  const message = Buffer.concat([Buffer.from([1, 0, 1, 0]), Buffer.alloc(256)])
  const inOne = record(message)
  const inTwo = Buffer.concat([record(message.subarray(0, 100)), record(message.subarray(100))])
  for (const whole of [inOne, inTwo]) {
    for (let length = 0; length < whole.length; length += 1)
      if (isWholeHello(whole.subarray(0, length))) t.fail(`whole after ${length} bytes`)
    t.ok(isWholeHello(whole))
  }
  t.ok(isWholeHello(Buffer.from('GET')), 'not TLS')
  t.ok(isWholeHello(record(Buffer.from([1, 0]))), 'a message without its length')
  t.ok(isWholeHello(Buffer.alloc(16_384, 22)), 'too long')
})
