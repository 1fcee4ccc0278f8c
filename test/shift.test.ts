import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { Client } from './support/client.ts'
import { batonHere } from './support/command.ts'
import { EventStream } from './support/event-stream.ts'
import { freePort } from './support/free-port.ts'
import { LIMIT } from './support/limits.ts'
import { configure, onlyWorker, reload, say } from './support/operator.ts'
import { signal } from './support/signal.ts'
import { type Service, startServices } from './support/service.ts'

// A share of the new connections for one version. Clients are told by their addresses: 127.0.0.0/8 has enough of them.

const { broker, services } = await startServices(
  t,
  {
    web: {},
    kept: { config: { parkAfter: '0ms' } },
    cookie: { config: { sticky: { cookie: 'user' }, parkAfter: '0ms' } },
    relayed: { config: { handoff: 'off' } },
  },
  { admin: { listen: `127.0.0.1:${await freePort()}` } },
)

const baton = (...args: string[]) => batonHere(...args, '--config', broker.configFile)

/** It is in force when the command ends. It was not: the worker heard of it at about the same time. */
const shift = (name: string, share: string, to = '2.0') => baton('shift', name, '--to', to, '--share', share)

async function versions(service: Service): Promise<{ old: number; next: number }> {
  const [old, next] = await Promise.all([
    service.start(t, 'http-backend.mjs', { BATON_VERSION: '1.0' }),
    service.start(t, 'http-backend.mjs', { BATON_VERSION: '2.0' }),
  ])
  await service.backends(2)
  return { old: old.pid, next: next.pid }
}

/** `127.1.0.1` and so on. */
const addresses = (count: number) =>
  Array.from({ length: count }, (_, index) => `127.1.${index >> 8}.${index & 255}`)

const open = (t: Test, service: Service, localAddress: string) =>
  Client.open(t, { host: '127.0.0.1', port: service.port, localAddress })

async function answerOf(client: Client, ...fields: string[]): Promise<number> {
  client.send(`GET / HTTP/1.1\r\nHost: x\r\n${fields.map((field) => `${field}\r\n`).join('')}\r\n`)
  return Number((await client.answer()).headers['x-pid'])
}

/** The backend of each address. */
async function askedBy(t: Test, service: Service, all: readonly string[]): Promise<number[]> {
  return Promise.all(
    all.map(async (address) => {
      const client = await open(t, service, address)
      const pid = await answerOf(client)
      client.socket.destroy()
      return pid
    }),
  )
}

void t.test('a shift by hand', { timeout: LIMIT }, async (t) => {
  const { web } = services
  const { next } = await versions(web)
  const all = addresses(400)
  const events = await EventStream.open(t, broker)
  t.match(await shift('web', '20%'), {
    code: 0,
    out: ['web: 20% of new connections go to version 2.0'],
    err: [],
  })
  await events.event('change', ({ kind, to }) => kind === 'shift' && to === '2.0', 'the shift')
  const first = await askedBy(t, web, all)
  const moved = first.filter((pid) => pid === next).length
  t.ok(Math.abs(moved - 80) < 24, `${moved} of 400`)
  t.same(await askedBy(t, web, all), first, 'each address stays on its side')
  t.equal(await broker.metric('baton_shift_share{service="web",version="2.0"}'), 0.2)
  t.equal(await web.metric('baton_shift_connections_total', 'side="to"'), 2 * moved)
  t.ok((await baton('status')).out.includes('web: 20% of new connections go to version 2.0'))

  await t.test('stays in force over a reload, and the death of a worker', async (t) => {
    t.ok((await reload(t, broker)).success)
    await web.backends(2)
    t.same(await askedBy(t, web, all), first, 'after a reload')
    const worker = await onlyWorker(t, broker)
    signal(worker, 'SIGKILL')
    await broker.until((status) => status.broker.pid !== worker, 'the next worker serves')
    await web.backends(2)
    t.same(await askedBy(t, web, all), first, 'after the death of the worker')
    t.equal(await broker.metric('baton_shift_share{service="web",version="2.0"}'), 0.2)
  })

  await t.test('when the share grows, no client moves back', async (t) => {
    t.equal((await shift('web', '50%')).code, 0)
    const second = await askedBy(t, web, all)
    t.same(
      first.filter((pid, index) => pid === next && second[index] !== next),
      [],
    )
    t.ok(Math.abs(second.filter((pid) => pid === next).length - 200) < 40)
    t.equal((await shift('web', '100%')).code, 0)
    t.same(new Set(await askedBy(t, web, all.slice(0, 50))), new Set([next]))
  })

  await t.test('over the admin API', async (t) => {
    const post = async (body: unknown, service = 'web') => {
      const answer = await fetch(`${broker.admin}/api/v1/services/${service}/shift`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      return [answer.status, await answer.json()] as const
    }
    t.match(await post({ to: '2.0', share: '0%' }), [200, { success: true }])
    t.notOk((await askedBy(t, web, all.slice(0, 50))).includes(next))
    t.match(await post({ to: '2.0', share: '101%' }), [
      400,
      { error: { code: 'BATON_ERR_ADMIN_BAD_REQUEST' } },
    ])
    t.match(await post({ to: '2.0' }), [400, {}])
    t.match(await post({ off: true }, 'nothing'), [404, {}])
    t.match(
      (await broker.status()).services.find(({ name }) => name === 'web'),
      {
        shift: { to: '2.0', share: 0, canary: false },
      },
    )
    t.match(await post({ off: true }), [200, { success: true }])
    t.match(
      (await broker.status()).services.find(({ name }) => name === 'web'),
      { shift: null },
    )
    t.notMatch(await broker.metrics(), /baton_shift_share\{/)
  })
})

void t.test('what is refused changes nothing', { timeout: LIMIT }, async (t) => {
  const cases: readonly [args: string[], problem: RegExp][] = [
    [['web', '--to', '2.0', '--share', '101%'], /--share: "101%": a share is a percentage/],
    [['web', '--to', '2.0', '--share', 'half'], /--share: "half": a share is a percentage/],
    [['web', '--to', '2.0'], /needs --share/],
    [['web', '--share', '5%'], /needs --to VERSION and --share N%, or --off/],
    [['web', '--to', '2 0', '--share', '5%'], /--to: a version has 1 to 128 printable characters/],
    [['web', '--off', '--share', '5%'], /--off goes without/],
  ]
  for (const [args, problem] of cases) {
    const { code, err } = await baton('shift', ...args)
    t.equal(code, 2, args.join(' '))
    t.match(err[0], problem)
  }
  t.match(await shift('wev', '5%'), {
    code: 2,
    err: [
      'baton: there is no such service: "wev"; there are: web, kept, cookie, relayed (BATON_ERR_UNKNOWN_SERVICE)',
    ],
  })
  t.match(await say(t, broker, 'shift web to=2.0 share=5'), /^Success=0\n--\nshift requires share=N%/)
  t.match(await say(t, broker, 'shift web share=5%'), /^Success=0\n--\nshift requires to=VERSION/)
  t.match(await baton('shift', 'web', '--off'), { code: 0, out: ['web: no connections are shifted'] })
})

void t.test('each request of a connection that is kept is chosen again', { timeout: LIMIT }, async (t) => {
  const { kept } = services
  const { old, next } = await versions(kept)
  t.equal((await shift('kept', '0%')).code, 0)
  const client = await open(t, kept, '127.1.0.1')
  t.equal(await answerOf(client), old)
  await kept.until(({ parked }) => parked === 1, 'it is parked')
  t.equal((await shift('kept', '100%')).code, 0)
  t.equal(await answerOf(client), next)
  await kept.until(({ parked }) => parked === 1, 'it is parked again')
  t.equal((await shift('kept', '0%')).code, 0)
  t.equal(await answerOf(client), old)
  client.socket.destroy()
})

void t.test('clients that are told by a cookie', { timeout: LIMIT }, async (t) => {
  const { cookie } = services
  const { next } = await versions(cookie)
  const askAs = async (address: string, ...fields: string[]) => {
    const client = await open(t, cookie, address)
    const pid = await answerOf(client, ...fields)
    client.socket.destroy()
    return pid
  }
  t.ok(await askAs('127.1.0.1', 'Cookie: user=1'), 'without a shift')
  t.equal((await shift('cookie', '50%')).code, 0)
  const users = Array.from({ length: 40 }, (_, index) => `Cookie: theme=dark; user=user-${index}`)
  const first = await Promise.all(users.map((user) => askAs('127.1.0.1', user)))
  t.equal(new Set(first).size, 2, 'users behind one address are on both sides')
  t.same(await Promise.all(users.map((user, index) => askAs(`127.1.1.${index + 1}`, user))), first)
  t.equal(
    new Set(await Promise.all(users.map(() => askAs('127.1.0.1')))).size,
    1,
    'without a cookie, by the address',
  )

  await cookie.until(({ parked }) => parked === 0, 'the others have left')
  const client = await open(t, cookie, '127.1.0.1')
  for (const [index, user] of users.slice(0, 10).entries()) {
    t.equal(await answerOf(client, user), first[index], 'each request of a connection by its own cookie')
    await cookie.until(({ parked }) => parked === 1, 'it is parked')
  }
  client.socket.destroy()
  t.equal((await shift('cookie', '100%')).code, 0)
  t.equal(await askAs('127.1.0.1', 'Cookie: user=1'), next)
  t.equal((await baton('shift', 'cookie', '--off')).code, 0)
})

void t.test('relayed connections are divided as well', { timeout: LIMIT }, async (t) => {
  const { relayed } = services
  const { old, next } = await versions(relayed)
  for (const [share, pid] of [
    ['100%', next],
    ['0%', old],
  ] as const) {
    t.equal((await shift('relayed', share)).code, 0)
    t.same(new Set(await askedBy(t, relayed, addresses(10))), new Set([pid]))
  }
  t.equal(await relayed.metric('baton_shift_connections_total', 'side="to"'), 10)
})

void t.test('a reload that removes the service ends its shift', { timeout: LIMIT }, async (t) => {
  const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as {
    listeners: { service: string }[]
    services: Record<string, unknown>
  }
  const { relayed: _, ...others } = config.services
  configure(broker, {
    listeners: config.listeners.filter(({ service }) => service !== 'relayed'),
    services: others,
  })
  t.ok((await reload(t, broker)).success)
  t.notMatch(await broker.metrics(), /baton_shift_share\{service="relayed"/)
})
