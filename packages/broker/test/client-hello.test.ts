import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import * as fc from 'fast-check'
import t, { type Test } from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { root } from '../../../test/support/process.ts'
import { type HelloReading, readClientHello } from '../src/worker/route/parse/client-hello.ts'

// The broker reads the first message of a TLS client, to choose a service by it. The messages are those of real clients.

/** The first bytes of a client, up to the end of its first record. */
async function firstBytes(t: Test, client: (port: number) => ChildProcess): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const child = client((server.address() as AddressInfo).port)
  const over = once(child, 'exit')
  const [socket] = (await once(server, 'connection')) as [Socket]
  let bytes = Buffer.alloc(0)
  while (bytes.length < 5 || bytes.length < 5 + bytes.readUInt16BE(3)) {
    const [chunk] = (await once(socket, 'data')) as [Buffer]
    bytes = Buffer.concat([bytes, chunk])
  }
  socket.destroy()
  await over
  return bytes
}

const QUIET = { stdio: 'ignore' } as const

const nodeClient = (node: string) => (port: number) =>
  spawn(
    node,
    [
      '-e',
      `require('tls').connect({ port: ${port}, servername: 'Shop.Example', ALPNProtocols: ['h2', 'http/1.1'] }).on('error', () => {})`,
    ],
    QUIET,
  )
const curlClient = (port: number) =>
  spawn('curl', ['-sk', '--connect-to', `::127.0.0.1:${port}`, 'https://Shop.Example/'], QUIET)
const opensslClient =
  (...more: string[]) =>
  (port: number) =>
    spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, ...more], QUIET)

function has(program: string): boolean {
  try {
    execFileSync(program, [program === 'curl' ? '--version' : 'version'], QUIET)
    return true
  } catch {
    return false
  }
}

/** Those of the other Node lines that `npm run test:matrix` has installed. */
function otherNodes(): [name: string, path: string][] {
  const cache = join(root, '.cache/node')
  if (!existsSync(cache)) return []
  return readdirSync(cache).flatMap((version): [string, string][] => {
    const path = join(cache, version, 'node_modules', `node-linux-${process.arch}`, 'bin/node')
    return existsSync(path) ? [[`Node ${version}`, path]] : []
  })
}

type Expected = { sni: string | undefined; alpn: readonly string[] }
const BOTH: Expected = { sni: 'shop.example', alpn: ['h2', 'http/1.1'] }

function clients(): [name: string, client: (port: number) => ChildProcess, expected: Expected][] {
  const found: ReturnType<typeof clients> = [[`Node ${process.version}`, nodeClient(process.execPath), BOTH]]
  for (const [name, path] of otherNodes()) found.push([name, nodeClient(path), BOTH])
  if (has('curl')) found.push(['curl', curlClient, BOTH])
  if (has('openssl')) {
    const named = ['-servername', 'shop.example']
    found.push(
      ['openssl', opensslClient(...named, '-alpn', 'h2,x'), { sni: 'shop.example', alpn: ['h2', 'x'] }],
      ['openssl, TLS 1.2', opensslClient(...named, '-tls1_2'), { sni: 'shop.example', alpn: [] }],
      ['openssl without a name', opensslClient('-noservername'), { sni: undefined, alpn: [] }],
    )
  }
  return found
}

/** A ClientHello with these extensions, in one record. */
function hello(extensions: Buffer | undefined, more = Buffer.alloc(0)): Buffer {
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    vector(1, Buffer.alloc(32)),
    vector(2, Buffer.from([0x13, 0x01])),
    vector(1, Buffer.from([0])),
    ...(extensions === undefined ? [] : [vector(2, extensions)]),
    more,
  ])
  return inRecords(Buffer.concat([Buffer.from([1, 0]), vector(2, body)]), [])
}

function vector(size: 1 | 2, content: Buffer): Buffer {
  const length = Buffer.alloc(size)
  length.writeUIntBE(content.length, 0, size)
  return Buffer.concat([length, content])
}

function extension(type: number, content: Buffer): Buffer {
  const head = Buffer.alloc(2)
  head.writeUInt16BE(type)
  return Buffer.concat([head, vector(2, content)])
}

const serverName = (name: string, type = 0) =>
  extension(0, vector(2, Buffer.concat([Buffer.from([type]), vector(2, Buffer.from(name, 'latin1'))])))

/** Spreads a message over several records, cut at these places. */
function inRecords(message: Buffer, cuts: readonly number[]): Buffer {
  const places = [0, ...cuts, message.length]
  return Buffer.concat(
    places
      .slice(1)
      .map((end, index) =>
        Buffer.concat([Buffer.from([22, 3, 1]), vector(2, message.subarray(places[index], end))]),
      ),
  )
}

/** Reads a growing prefix, as the broker does: only once the bytes that were asked for are there. */
function piecemeal(bytes: Buffer, t: Test): HelloReading {
  let wanted = 1
  for (let length = 0; length <= bytes.length; length++) {
    const reading = readClientHello(bytes.subarray(0, length))
    if (reading.state !== 'more') return reading
    if (reading.bytes <= length || reading.bytes < wanted)
      t.fail(`asks for ${reading.bytes} of ${length} bytes`)
    wanted = reading.bytes
  }
  return { state: 'more', bytes: wanted }
}

const corpus: Buffer[] = []

void t.test('name and protocols of real clients', { timeout: LIMIT }, async (t) => {
  for (const [name, client, expected] of clients()) {
    const bytes = await firstBytes(t, client)
    corpus.push(bytes)
    t.same(readClientHello(bytes), { state: 'found', hello: expected }, `${name}: ${bytes.length} bytes`)
  }
})

void t.test(
  'in whatever pieces and records it arrives, a hello is read as if it had come at once',
  async (t) => {
    for (const bytes of corpus) {
      const whole = readClientHello(bytes)
      t.same(piecemeal(bytes, t), whole, 'byte by byte')
      t.same(readClientHello(Buffer.concat([bytes, Buffer.from('more')])), whole, 'with bytes behind it')
      const message = bytes.subarray(5)
      fc.assert(
        fc.property(
          fc.uniqueArray(fc.integer({ min: 1, max: message.length - 1 }), { maxLength: 8 }),
          (cuts) => {
            const spread = inRecords(
              message,
              cuts.toSorted((a, b) => a - b),
            )
            const reading = readClientHello(spread)
            const early = readClientHello(spread.subarray(0, spread.length - 1))
            return JSON.stringify(reading) === JSON.stringify(whole) && early.state === 'more'
          },
        ),
        { numRuns: 50 },
      )
    }
    const single = inRecords((corpus[0] as Buffer).subarray(5), [1, 2, 3, 4, 5, 6])
    t.same(piecemeal(single, t), readClientHello(corpus[0] as Buffer), 'records of one byte')
  },
)

void t.test('what is no ClientHello', async (t) => {
  const found = (bytes: Buffer) => readClientHello(bytes).state
  const name = serverName('a.example')
  const cases: readonly [what: string, bytes: Buffer, state: HelloReading['state']][] = [
    ['a request', Buffer.from('G'), 'not-tls'],
    ['an alert', Buffer.from([21, 3, 1, 0, 2, 2, 40]), 'not-tls'],
    ['SSL 2', Buffer.from([0x80, 0x2e, 1, 3, 1]), 'not-tls'],
    ['an empty record', Buffer.from([22, 3, 1, 0, 0]), 'not-tls'],
    ['a record that is too long', Buffer.from([22, 3, 1, 0x40, 1]), 'not-tls'],
    ['a ServerHello', Buffer.from([22, 3, 1, 0, 4, 2]), 'not-tls'],
    ['two names', hello(Buffer.concat([name, name])), 'not-tls'],
    ['a name of another kind', hello(serverName('a', 1)), 'not-tls'],
    ['an empty name', hello(serverName('')), 'not-tls'],
    ['a name with a NUL', hello(serverName('a\0b')), 'not-tls'],
    ['bytes behind the extensions', hello(name, Buffer.from([0])), 'not-tls'],
    ['an extension cut short', hello(name.subarray(0, -1)), 'not-tls'],
    ['protocols cut short', hello(extension(16, vector(2, Buffer.from([5, 1])))), 'not-tls'],
    ['no extensions', hello(undefined), 'found'],
    ['nothing', Buffer.alloc(0), 'more'],
  ]
  for (const [what, bytes, state] of cases) t.equal(found(bytes), state, what)
  const types = [1, 5, 31, 32, 33, 63, 64, 65, 96, 17_513, 65_281, 65_535]
  const each = types.map((type) => extension(type, Buffer.from([1])))
  t.equal(found(hello(Buffer.concat([...each, name]))), 'found', 'extensions of many types')
  for (const [index, again] of each.entries())
    t.equal(found(hello(Buffer.concat([...each, again]))), 'not-tls', `two of type ${types[index]}`)
  t.same(
    readClientHello(hello(serverName('A.Example.'))),
    { state: 'found', hello: { sni: 'a.example', alpn: [] } },
    'in lower case, without the final dot',
  )
})

void t.test('damaged hellos are read without an exception', async (t) => {
  const [sound = Buffer.alloc(0)] = corpus
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(sound.length - 1), fc.nat(255)), { maxLength: 5 }), (changes) => {
      const bytes = Buffer.from(sound)
      for (const [at, byte] of changes) bytes[at] = byte
      const whole = readClientHello(bytes)
      const again = piecemeal(bytes, t)
      return JSON.stringify(whole) === JSON.stringify(again)
    }),
    { numRuns: 200 },
  )
  t.pass()
})
