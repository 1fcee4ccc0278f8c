import t from 'tap'
import type { Status } from '../packages/broker/src/api/status.ts'
import { startBroker } from './support/broker.ts'
import { baton } from './support/command.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'

// `baton status` shows what a listener chooses by, what it refuses, and how often it has.

void t.test('routes and limits of listeners', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      admin: { listen: `127.0.0.1:${await freePort()}` },
      listeners: [
        {
          name: 'web',
          listen: '127.0.0.1:0',
          service: null,
          routes: [
            { host: '*.example.com', path: '/api', service: 'api', version: '2.0' },
            { header: { 'x-preview': 'open-sesame' }, cookie: { beta: 'also-secret' }, service: 'web' },
          ],
        },
        {
          name: 'few',
          listen: '127.0.0.1:0',
          service: 'web',
          limits: { connections: 1000, perSource: { connections: 1, rate: '2/h', burst: 1 } },
        },
        { name: 'plain', listen: '127.0.0.1:0', service: 'web' },
      ],
      services: { web: { holdTimeout: '0s' }, api: {} },
    },
  })
  const file = ['--config', broker.configFile]
  const fresh = await baton(t, ['status', ...file])
  t.equal(fresh.code, 0, fresh.err.join('\n'))
  t.notMatch(fresh.out.join('\n'), /went to no service/)

  // A rejection closes the connection, so each of these comes on a new one.
  const answer = async (listener: string) => (await fetch(broker.url('/', listener))).status
  t.equal(await answer('web'), 404)
  t.equal(await answer('few'), 503)
  t.equal(await answer('few'), 429)

  const { out } = await baton(t, ['status', ...file])
  const text = out.join('\n')
  t.match(text, /^few admits 1000 connections; of each source 1 connection, 2\/h \(1 at once\)$/m)
  t.match(text, /^of the connections of web, these went to no service: 1 no_route$/m)
  t.match(text, /^of the connections of few, these went to no service: 1 limit_rate$/m)
  t.match(text, /^ROUTES +WHEN +SERVICE +VERSION *$/m)
  t.match(text, /^web +host \*\.example\.com, path \/api +api +2\.0$/m)
  t.match(text, /^web +header x-preview, cookie beta +web +-$/m)
  t.match(text, /^web +otherwise +rejected +-$/m)
  t.notMatch(text, /plain (admits|otherwise)/)

  const json = await baton(t, ['status', '--json', ...file])
  const { broker: shown, listeners } = JSON.parse(json.out.join('\n')) as Status
  // The answer of the master has a `broker` too, which took the place of this one.
  t.match(shown, { id: /^\w{26}$/, pid: broker.pid, master: broker.program.pid, state: 'running' })
  t.match(listeners, [
    {
      name: 'web',
      routes: [
        { host: '*.example.com', path: '/api', service: 'api', version: '2.0' },
        { header: ['x-preview'], cookie: ['beta'], service: 'web', version: null },
      ],
      limits: null,
      unrouted: { no_route: 1, limit_rate: 0 },
    },
    {
      name: 'few',
      routes: [],
      limits: { connections: 1000, perSource: { connections: 1, rate: '2/h', burst: 1 } },
      unrouted: { limit_rate: 1 },
    },
    { name: 'plain', routes: [], limits: null, unrouted: null },
  ])

  // It comes each second, and a listener may have a thousand routes.
  const stream = new AbortController()
  const response = await fetch(`${broker.admin}/api/v1/events`, { signal: stream.signal })
  let events = ''
  for await (const chunk of response.body ?? []) {
    events += Buffer.from(chunk as Uint8Array).toString()
    if (/^data: .*"status":.*\n\n/m.test(events)) break
  }
  stream.abort()
  t.match(events, /"name":"few",[^}]*"unrouted":/)
  t.notMatch(events, /"routes"|"limits"/)

  for (const secret of ['open-sesame', 'also-secret'])
    t.notOk([...out, ...json.out, events].some((line) => line.includes(secret)))
})
