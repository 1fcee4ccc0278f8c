import { createClient } from 'graphql-ws'
import t from 'tap'
import { WebSocket } from 'ws'
import { WebsocketProvider } from 'y-websocket'
import { Doc } from 'yjs'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { below, WsTalker } from '../support/ws-talker.ts'

// Libraries on top of `ws`, each with a client of its own: what docs/how-to/websockets.md says of them.

const DEPLOYS = 3

void t.test(
  'connections of libraries on top of ws outlive deploys',
  { timeout: 2 * LIMIT },
  async (whole) => {
    const services = ['fastify', 'graphql', 'yjs']
    const broker = await startBroker(whole, {
      config: {
        listeners: services.map((name) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })),
        services: Object.fromEntries(services.map((name) => [name, { holdTimeout: '10m' }])),
      },
    })
    /** Replaces the process that `start` has started last, several times; each must end by itself. */
    async function deployer(service: string, program: string): Promise<() => Promise<void>> {
      let current = await startBackend(whole, broker, program, { service })
      return async () => {
        for (let deploy = 0; deploy < DEPLOYS; deploy++) {
          const next = await startBackend(whole, broker, program, { service })
          await broker.backends(2, service)
          current.kill('SIGTERM')
          whole.equal((await current.exited).code, 0)
          const closed = current.messages().filter(({ msg }) => msg === 'closed')
          whole.ok(closed.length > 0 && closed.every(({ movedOn }) => movedOn === true))
          current = next
        }
      }
    }

    await whole.test('@fastify/websocket', async (t) => {
      const deploy = await deployer('fastify', 'fastify-websocket-backend.mjs')
      const talkers = await Promise.all(
        Array.from({ length: 5 }, () => new WsTalker(t, broker.port('fastify'), false, '/chat').open()),
      )
      const timer = setInterval(() => talkers[below(talkers.length)]?.sayAnything(), 2)
      await deploy()
      clearInterval(timer)
      for (const talker of talkers) {
        await eventually(
          () => talker.isAnswered,
          () => `${talker.sent} sent, ${talker.heard} answered`,
        )
        t.same(talker.problems, [])
        t.equal(talker.closeCode, undefined)
        talker.ws.close()
      }
    })

    await whole.test('graphql-ws: subscriptions go on, with each number once', async (t) => {
      const deploy = await deployer('graphql', 'graphql-ws-backend.mjs')
      const closed: unknown[] = []
      const client = createClient({
        url: `ws://127.0.0.1:${broker.port('graphql')}`,
        webSocketImpl: WebSocket,
        connectionParams: { user: 'me' },
        retryAttempts: 0,
        lazy: false,
        on: { closed: (event) => closed.push(event) },
      })
      t.teardown(() => client.dispose())
      const numbers: number[] = []
      const query = 'subscription ($from: Int!) { count(from: $from) }'
      const unsubscribe = client.subscribe<{ count: number }>(
        { query, variables: { from: 1 } },
        {
          next: ({ data }) => numbers.push(data?.count ?? 0),
          error: (error) => t.fail('subscription', { error }),
          complete: () => undefined,
        },
      )
      /** Asks all the time. */
      const pids = new Set<number>()
      const over = new AbortController()
      const asking = (async () => {
        while (!over.signal.aborted)
          for await (const { data } of client.iterate<{ pid: number }>({ query: '{ pid }' }))
            pids.add(data?.pid ?? 0)
      })()
      await deploy()
      const seen = numbers.length
      await eventually(() => numbers.length > seen + 10, 'more numbers')
      over.abort()
      await asking
      unsubscribe()
      t.same(
        numbers,
        numbers.map((_, index) => index + 1),
      )
      t.ok(pids.size >= DEPLOYS, `${pids.size} processes have answered queries`)
      t.same(closed, [])
    })

    await whole.test('y-websocket: documents converge, and who is present stays', async (t) => {
      const deploy = await deployer('yjs', 'yjs-backend.mjs')
      const closed: string[] = []
      const members = Array.from({ length: 4 }, (_, index) => {
        const doc = new Doc()
        const provider = new WebsocketProvider(`ws://127.0.0.1:${broker.port('yjs')}`, 'notes', doc, {
          WebSocketPolyfill: WebSocket as never,
          disableBc: true,
        })
        provider.awareness.setLocalStateField('user', index)
        t.teardown(() => {
          provider.destroy()
          // Its awareness has a timer.
          doc.destroy()
        })
        return { doc, provider, list: doc.getArray<string>('list') }
      })
      await eventually(() => members.every(({ provider }) => provider.synced), 'in sync')
      for (const { provider } of members)
        provider.on('status', ({ status }) => {
          if (status !== 'connected') closed.push(status)
        })
      let written = 0
      const timer = setInterval(() => members[below(members.length)]?.list.push([`${++written}`]), 5)
      await deploy()
      clearInterval(timer)
      await eventually(() => members.every(({ list }) => list.length === written), 'all have everything')
      const [first, ...others] = members.map(({ list }) => list.toArray())
      for (const other of others) t.same(other, first)
      t.equal(new Set(first).size, written)
      await eventually(
        () => members.every(({ provider }) => provider.awareness.getStates().size === members.length),
        'all are present',
      )
      t.same(closed, [])
    })
  },
)
