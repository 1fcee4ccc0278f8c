import { isDeepStrictEqual } from 'node:util'
import * as fc from 'fast-check'
import t from 'tap'
import { acceptsHost, coversHost, hostPatternProblem } from '../src/config/host-pattern.ts'
import { shadows } from '../src/config/route-conditions.ts'
import { networksOf, parseTrustedSource } from '../src/config/trusted-source.ts'
import { readRequestHead, type RequestHead } from '../src/worker/route/parse/request-head.ts'
import { HostIndex } from '../src/worker/route/host-index.ts'
import { type Route, RouteTable } from '../src/worker/route/table.ts'

// The choice of a service, by what a connection begins with.

function head(target: string, ...fields: string[]): RequestHead {
  const text = [`GET ${target} HTTP/1.1`, ...fields, '', ''].join('\r\n')
  const reading = readRequestHead(Buffer.from(text, 'latin1'))
  if (reading.state !== 'found') throw new Error(text)
  return reading.head
}

const hello = (sni: string | undefined, ...alpn: string[]) => ({ sni, alpn })

void t.test('the first route that matches is chosen, by name and protocols of a hello', async (t) => {
  const table = new RouteTable([
    { sni: 'api.example', alpn: 'h2', service: 'grpc' },
    { sni: '*.shop.example', service: 'shop' },
    { sni: 'api.example', service: 'api' },
    { sni: '*', service: null },
  ])
  t.equal(table.byHello(hello('api.example', 'http/1.1', 'h2'))?.service, 'grpc')
  t.equal(table.byHello(hello('api.example', 'http/1.1'))?.service, 'api')
  t.equal(table.byHello(hello('a.b.shop.example'))?.service, 'shop')
  t.equal(table.byHello(hello('shop.example'))?.service, null)
  t.equal(table.byHello(hello('xshop.example'))?.service, null)
  t.equal(table.byHello(hello(undefined)), undefined)
})

void t.test('host, path, header and cookie of a request', async (t) => {
  const table = new RouteTable([
    { header: { 'x-tenant': '*', 'x-beta': '1' }, service: 'both' },
    { cookie: { canary: 'yes' }, service: 'canary' },
    { host: 'api.example', path: '/v1', service: 'one' },
    { host: 'api.example', service: 'api' },
    { path: '/static/', service: 'files' },
  ])
  const chosen = (...request: Parameters<typeof head>) => table.byHead(head(...request))?.service
  t.equal(chosen('/', 'X-Tenant: a', 'x-beta: 1'), 'both')
  t.equal(chosen('/', 'X-Tenant: a', 'x-beta: 2'), undefined)
  t.equal(chosen('/', 'Cookie: a=b; canary=yes'), 'canary')
  t.equal(chosen('/', 'Cookie: canary=no'), undefined)
  t.equal(chosen('/v1', 'Host: API.example:80'), 'one')
  t.equal(chosen('/v1/a?b', 'Host: api.example'), 'one')
  t.equal(chosen('/v10', 'Host: api.example'), 'api')
  t.equal(chosen('/static/a', 'Host: a'), 'files')
  t.equal(chosen('/static', 'Host: a'), undefined)
  t.ok(table.isAmbiguous(head('/', 'X-Tenant: a', 'x-tenant: a')), 'a field that decides occurs twice')
  t.notOk(table.isAmbiguous(head('/', 'X-Other: a', 'X-Other: b')), 'others may')
})

void t.test('a route that can never be chosen is recognised', async (t) => {
  const cases: readonly [route: Omit<Route, 'service'>, other: Omit<Route, 'service'>, shadowed: boolean][] =
    [
      [{ host: 'a' }, { host: 'a' }, true],
      [{ host: 'a' }, { host: 'a', path: '/b' }, true],
      [{ host: 'a', path: '/b' }, { host: 'a' }, false],
      [{ sni: '*.a' }, { sni: 'b.a' }, true],
      [{ sni: '*.a' }, { sni: '*.b.a' }, true],
      [{ sni: '*.a' }, { sni: 'a' }, false],
      [{ sni: '*.b.a' }, { sni: '*.a' }, false],
      [{ sni: '*' }, { sni: '*.a' }, true],
      [{ sni: '*.a' }, { sni: '*' }, false],
      [{ path: '/a' }, { path: '/a/b' }, true],
      [{ path: '/a' }, { path: '/ab' }, false],
      [{ header: { x: '*' } }, { header: { x: '1', y: '2' } }, true],
      [{ header: { x: '1' } }, { header: { x: '*' } }, false],
      [{ header: { x: '1', y: '2' } }, { header: { x: '1' } }, false],
      [{ cookie: { constructor: '*' } }, { cookie: { a: 'b' } }, false],
    ]
  for (const [route, other, shadowed] of cases)
    t.equal(shadows(route, other), shadowed, `${JSON.stringify(route)} before ${JSON.stringify(other)}`)
})

void t.test('a pattern covers another exactly if it accepts all of its names', async (t) => {
  const name = fc
    .array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 3 })
    .map((labels) => labels.join('.'))
  const pattern = fc.oneof(
    name,
    name.map((suffix) => `*.${suffix}`),
    fc.constant('*'),
  )
  fc.assert(
    fc.property(pattern, pattern, name, (one, other, example) => {
      const covers = coversHost(one, other)
      return !(covers && acceptsHost(other, example)) || acceptsHost(one, example)
    }),
    { numRuns: 2000 },
  )
  fc.assert(
    fc.property(
      fc.array(fc.option(pattern, { nil: undefined }), { maxLength: 8 }),
      name,
      (patterns, example) => {
        const accepting = patterns.flatMap((each, index) =>
          each === undefined || acceptsHost(each, example) ? [index] : [],
        )
        return isDeepStrictEqual(new HostIndex(patterns).find(example), accepting)
      },
    ),
    { numRuns: 2000 },
  )
  t.equal(hostPatternProblem('*.shop.example'), undefined)
  t.equal(hostPatternProblem('[::1]'), undefined)
  for (const wrong of [
    '',
    'a..b',
    'a b',
    'a.*',
    '*a.b',
    'a:80',
    '-a',
    'a.',
    `${'a'.repeat(64)}.b`,
    'ü.example',
  ])
    t.type(hostPatternProblem(wrong), 'string', wrong)
})

void t.test('trusted sources', async (t) => {
  const networks = ['10.0.0.0/8', '192.0.2.1', '2001:db8::/32'].map(parseTrustedSource)
  t.equal(networks.filter((source) => typeof source === 'string').length, 0)
  const trusted = networksOf(networks.filter((source) => typeof source !== 'string'))
  for (const address of ['10.255.0.1', '::ffff:10.0.0.1', '192.0.2.1', '2001:db8:1::2'])
    t.ok(trusted(address), address)
  for (const address of ['11.0.0.1', '192.0.2.2', '2001:db9::1', '::1', 'fe80::1%1'])
    t.notOk(trusted(address), address)
  t.same(parseTrustedSource('uid:0'), { kind: 'uid', uid: 0 })
  for (const wrong of [
    '',
    'uid:',
    'uid:4294967295',
    '10.0.0.0/33',
    '::/129',
    '10.0.0/8',
    '1.2.3.4/8/8',
    'a',
    'fe80::1%1',
    '10.0.0.0/',
  ])
    t.type(parseTrustedSource(wrong), 'string', wrong)
})

void t.test('many routes', async (t) => {
  const table = new RouteTable(
    Array.from({ length: 200 }, (_, index) => ({
      host: `*.tenant${index}.example`,
      path: '/api',
      service: `s${index}`,
    })),
  )
  const last = head('/api/x', 'Host: www.tenant199.example')
  const started = performance.now()
  const rounds = 20_000
  for (let round = 0; round < rounds; round++) table.byHead(last)
  const each = ((performance.now() - started) / rounds) * 1000
  t.comment(`200 routes, the last matches: ${each.toFixed(1)} us`)
  t.equal(table.byHead(last)?.service, 's199')
})
