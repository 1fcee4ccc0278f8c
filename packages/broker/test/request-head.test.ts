import * as fc from 'fast-check'
import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import {
  cookieOf,
  type HeadReading,
  parseHead,
  readRequestHead,
  type RequestHead,
  scanHead,
} from '../src/worker/route/parse/request-head.ts'
import { generateHead, random, ReferenceServer } from './generated-heads.ts'

// The broker reads the head of a request, to choose a service by it.

const read = (text: string): HeadReading => readRequestHead(Buffer.from(text, 'latin1'))

function headOf(text: string): RequestHead {
  const reading = read(text)
  if (reading.state !== 'found') throw new Error(`${JSON.stringify(text)}: ${JSON.stringify(reading)}`)
  return reading.head
}

/** `found`, `more`, `http2`, or why it was refused. */
function verdict(text: string): string {
  const reading = read(text)
  return reading.state === 'refused' ? reading.why : reading.state
}

void t.test('host, path, header fields and cookies of a request', async (t) => {
  const head = headOf(
    'GET /a/b?c=d HTTP/1.1\r\nHost: Shop.Example.:8080\r\nX-Tenant: \t one \r\nx-tenant: two\r\nCookie: a=1; b="2"; a=3\r\nCookie:c=4\r\n\r\nbody\nof it',
  )
  t.equal(head.method, 'GET')
  t.equal(head.host, 'shop.example')
  t.equal(head.path, '/a/b')
  t.same(head.fields.get('x-tenant'), ['one', 'two'])
  t.equal(cookieOf(head, 'a'), '1', 'the first of two')
  t.equal(cookieOf(head, 'b'), '2', 'without its quotes')
  t.equal(cookieOf(head, 'c'), '4', 'of a second field')
  t.equal(cookieOf(head, 'd'), undefined)
})

void t.test('forms of host and target', async (t) => {
  const host = (value: string) => headOf(`GET / HTTP/1.1\r\nHost: ${value}\r\n\r\n`).host
  t.equal(host('[2001:DB8::1]:443'), '[2001:db8::1]')
  t.equal(host('a_b-c.example'), 'a_b-c.example')
  t.equal(host(''), '')
  t.equal(headOf('GET / HTTP/1.0\r\n\r\n').host, undefined)
  const path = (line: string) => headOf(`${line} HTTP/1.1\r\nHost: a:80\r\n\r\n`).path
  t.equal(path('OPTIONS *'), '*')
  t.equal(path('CONNECT a:80'), '')
  t.equal(path('GET http://A:80/b?c'), '/b')
  t.equal(path('GET HTTPS://a:80?c'), '/')
  t.equal(path('GET /a/../%62'), '/a/../%62', 'neither decoded nor normalised')
  t.equal(headOf('\r\n\r\nGET /a HTTP/1.1\r\n\r\n').path, '/a', 'behind empty lines')
})

void t.test('what parsers could read in two ways is refused', async (t) => {
  const cases: readonly [head: string, why: string][] = [
    ['GET / HTTP/1.1\nHost: a\n\n', 'bare line feed'],
    ['GET / HTTP/1.1\r\nX: a\nHost: b\r\n\r\n', 'bare line feed'],
    ['\nGET / HTTP/1.1\r\n\r\n', 'bare line feed'],
    ['GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n', 'more than one Host'],
    ['GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n', 'more than one Host'],
    ['GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n', 'folded field'],
    ['GET / HTTP/1.1\r\n\tX: a\r\n\r\n', 'folded field'],
    ['GET / HTTP/1.1\r\nHost : a\r\n\r\n', 'field line'],
    ['GET / HTTP/1.1\r\nHost\r\n\r\n', 'field line'],
    ['GET / HTTP/1.1\r\n: a\r\n\r\n', 'field line'],
    ['GET / HTTP/1.1\r\nHost\0: a\r\n\r\n', 'field line'],
    ['GET / HTTP/1.1\r\nX: a\0b\r\n\r\n', 'control character'],
    ['GET / HTTP/1.1\r\nX: a\rHost: b\r\n\r\n', 'control character'],
    ['GET / HTTP/1.1\r\nHost: a, b\r\n\r\n', 'host name'],
    ['GET / HTTP/1.1\r\nHost: a@b\r\n\r\n', 'host name'],
    ['GET / HTTP/1.1\r\nHost: a:b\r\n\r\n', 'host name'],
    ['GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n', 'target and Host differ'],
    ['GET http://a/ HTTP/1.0\r\n\r\n', 'target and Host differ'],
    ['GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n', 'target and Host differ'],
    ['CONNECT a:443 HTTP/1.1\r\nHost: b:443\r\n\r\n', 'target and Host differ'],
    ['GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n', 'request target'],
    ['GET a HTTP/1.1\r\nHost: a\r\n\r\n', 'request target'],
    ['GET * HTTP/1.1\r\nHost: a\r\n\r\n', 'request target'],
    ['GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n', 'request target'],
    ['GET  / HTTP/1.1\r\n\r\n', 'request line'],
    ['GET /\t HTTP/1.1\r\n\r\n', 'request line'],
    ['GET / HTTP/1.1 \r\n\r\n', 'request line'],
    ['GET / HTTP/1.2\r\n\r\n', 'request line'],
    ['GET /\r\n\r\n', 'request line'],
    ['\r\r\nGET / HTTP/1.1\r\n\r\n', 'request line'],
    ['\x16\x03\x01\r\n\r\n', 'request line'],
    ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'http2'],
    ['GET / HTTP/1.1\r\nHost: a\r\n', 'more'],
    ['\r\n\r\n\r\n', 'more'],
    ['', 'more'],
  ]
  for (const [head, why] of cases) t.equal(verdict(head), why, JSON.stringify(head))
})

void t.test('in whatever pieces a head arrives, it is read as if it had come at once', async (t) => {
  const next = random(7)
  for (let count = 0; count < 300; count++) {
    const text = generateHead(next)
    const bytes = Buffer.from(text, 'latin1')
    const whole = readRequestHead(bytes)
    let scanned = 0
    let piecemeal: HeadReading = { state: 'more' }
    for (let length = 0; length <= bytes.length && piecemeal.state === 'more'; length++) {
      const part = bytes.subarray(0, length)
      if (length < bytes.length && readRequestHead(part).state !== 'more' && whole.state === 'more')
        t.fail(text)
      const scan = scanHead(part, scanned)
      scanned = scan.scanned
      if (scan.fault !== undefined) piecemeal = { state: 'refused', why: scan.fault }
      else if (scan.end !== undefined) piecemeal = parseHead(part, scan.end)
    }
    if (JSON.stringify(piecemeal) !== JSON.stringify(whole)) t.same(piecemeal, whole, JSON.stringify(text))
  }
  t.pass()
})

void t.test('arbitrary bytes are read without an exception, in linear time', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      readRequestHead(Buffer.concat([Buffer.from('GET / HTTP/1.1\r\n'), bytes, Buffer.from('\r\n\r\n')]))
    }),
  )
  // Quadratic, each of them would take seconds.
  const long = 1 << 20
  t.equal(verdict('\r\n'.repeat(long)), 'more')
  t.equal(verdict(`GET / HTTP/1.1\r\nX: a${' '.repeat(long)}b\r\n\r\n`), 'found')
  t.equal(verdict(`GET http://${'a'.repeat(long)} HTTP/1.1\r\nHost: b\r\n\r\n`), 'target and Host differ')
  const head = headOf(`GET / HTTP/1.1\r\nCookie: ${'; '.repeat(long)}a=1\r\n\r\n`)
  t.equal(cookieOf(head, 'a'), '1')
})

void t.test(
  "host and path are those that Node's server sees, or the head is refused",
  { timeout: LIMIT },
  async (t) => {
    const next = random(20_261_129)
    const server = new ReferenceServer()
    const counts = { alike: 0, refused: 0, refusedByBoth: 0, refusedByNode: 0 }
    // As many as a few seconds have room for; the environment asks for more.
    const total = Number(process.env['HEADS'] ?? 5000)
    for (let count = 0; count < total; count++) {
      const text = generateHead(next)
      const seen = await server.read(text)
      const reading = read(text)
      if (reading.state !== 'found') counts[seen === undefined ? 'refusedByBoth' : 'refused'] += 1
      else if (seen === undefined) counts.refusedByNode += 1
      else {
        const { host, path } = reading.head
        const nodeHost = seen.host?.toLowerCase().replace(/:\d*$/, '').replace(/\.$/, '')
        const nodePath = reading.head.method === 'CONNECT' ? '' : pathOf(seen)
        counts.alike += 1
        if (host !== nodeHost || path !== nodePath)
          t.same({ host, path }, { host: nodeHost, path: nodePath }, JSON.stringify(text))
      }
    }
    t.comment(JSON.stringify(counts))
    t.ok(
      counts.alike > total / 5 && counts.refused > total / 50 && counts.refusedByBoth > total / 50,
      'there are heads of each kind',
    )
  },
)

/** The path of a target, by the parser of URLs: not the one under test. */
function pathOf({ url, host }: { url: string; host: string | undefined }): string {
  if (url === '*') return url
  const origin = /^https?:\/\//i.exec(url)
  const rest = origin === null ? url : url.slice(origin[0].length + (host ?? '').length)
  const [path = ''] = rest.split('?')
  return path === '' ? '/' : path
}
