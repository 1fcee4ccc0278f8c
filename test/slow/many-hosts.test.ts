import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { batonCommand } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { canNetwork, Namespace } from '../support/network.ts'
import { cleanEnvironment, type Program, root, temporaryFolder } from '../support/process.ts'
import { signal } from '../support/signal.ts'

// Three hosts, each a network namespace with a Baton and two backends; HAProxy in a fourth, with the configuration of docs/how-to/many-hosts.md.

const hasHaproxy = spawnSync('haproxy', ['-v']).status === 0
const skip = !canNetwork ? 'needs root, and veth pairs' : !hasHaproxy && 'haproxy is not installed'

/** One host, and the broker on it. */
class Host {
  readonly name: string
  readonly address: string
  readonly #namespace: Namespace
  readonly #balancer: string
  readonly #folder: string
  readonly #config: string
  #program: Program | undefined

  constructor(t: Test, name: string, namespace: Namespace, [balancer, address]: readonly [string, string]) {
    this.name = name
    this.address = address
    this.#namespace = namespace
    this.#balancer = balancer
    this.#folder = join(temporaryFolder(t), name)
    mkdirSync(this.#folder)
    const token = join(this.#folder, 'token')
    writeFileSync(token, 'a-token-of-the-admin-server\n')
    chmodSync(token, 0o600)
    this.#config = join(this.#folder, 'baton.json')
    writeFileSync(
      this.#config,
      JSON.stringify({
        runtimeDir: join(this.#folder, 'run'),
        drainDeadline: '8s',
        admin: { listen: `${address}:9180`, tokenFile: token },
        agentCheck: `${address}:9181`,
        listeners: [
          { name: 'web', listen: `${address}:8080`, service: 'web', proxyProtocol: { from: [balancer] } },
        ],
        services: {
          web: {
            command: [process.execPath, join(root, 'test/programs/ws-backend.mjs')],
            cwd: root,
            instances: 2,
            env: { DRAIN_DEADLINE: '4s' },
            minHealthy: '0s',
          },
        },
      }),
    )
  }

  async start(t: Test): Promise<void> {
    this.#program = this.#namespace.run(t, [
      process.execPath,
      batonCommand,
      'start',
      '--config',
      this.#config,
    ])
    await this.#program.message('accepting connections')
  }

  /** Runs `baton` on this host. */
  async baton(t: Test, ...words: string[]): Promise<void> {
    const program = this.#namespace.run(t, [
      process.execPath,
      batonCommand,
      ...words,
      '--config',
      this.#config,
    ])
    const { code } = await program.exited
    if (code !== 0) throw new Error(`baton ${words.join(' ')}: ${program.lines.join('\n')}`)
  }

  async stopped(): Promise<void> {
    await this.#program?.exited
  }

  /**
   * Nothing that the host sends arrives any longer, and everything on it is killed. Not by a link that is down: the kernel of the balancer would
   * know that its packets go nowhere, and not take them for unanswered.
   */
  async vanish(): Promise<void> {
    this.#namespace.ip('route', 'add', 'blackhole', this.#balancer)
    for (const pid of this.#namespace.processes()) signal(pid, 'SIGKILL')
    await this.#program?.exited
  }

  /** Connected again, as after a start of the host. */
  come(): void {
    this.#namespace.ip('route', 'delete', 'blackhole', this.#balancer)
  }
}

const haproxy = (stats: string, hosts: readonly Host[]) => `
global
  stats socket ${stats} level admin
  nbthread 1
defaults
  mode http
  timeout connect 500ms
  timeout client 1m
  timeout server 3s
  timeout tunnel 1h
  timeout check 500ms
  retries 5
  option redispatch 1
  retry-on conn-failure empty-response response-timeout
frontend public
  bind 127.0.0.1:3000
  default_backend hosts
backend hosts
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  http-request disable-l7-retry unless METH_GET
  default-server weight 100 send-proxy-v2 check inter 300ms fall 2 rise 1 agent-check agent-port 9181 agent-inter 300ms
${hosts.map(({ name, address }) => `  server ${name} ${address}:8080 check port 9180`).join('\n')}
`

interface Row {
  readonly status: string
  readonly weight: number
  readonly sessions: number
}

/** HAProxy's own view of its servers. */
async function view(path: string): Promise<ReadonlyMap<string, Row>> {
  const socket = connect(path)
  socket.end('show stat\n')
  const [head = '', ...rows] = (await text(socket)).trim().split('\n')
  const names = head.replace(/^# /, '').split(',')
  const table = rows.map((row) =>
    Object.fromEntries(row.split(',').map((cell, at) => [names[at] ?? '', cell])),
  )
  return new Map(
    table.flatMap(({ pxname, svname = '', status = '', weight, stot }) =>
      pxname === 'hosts' && svname !== 'BACKEND'
        ? [[svname, { status, weight: Number(weight), sessions: Number(stot) }] as const]
        : [],
    ),
  )
}

interface Totals {
  readonly requests: number
  readonly failed: number
  readonly errors: Readonly<Record<string, number>>
  readonly wrong: number
  readonly messages: number
  readonly unanswered: number
  readonly handshakes: number
  readonly closed: Readonly<Record<string, number>>
}

void t.test('three hosts behind HAProxy', { timeout: 4 * LIMIT, skip }, async (t) => {
  const balancer = await Namespace.open(t)
  const hosts: Host[] = []
  for (const [index, name] of ['a', 'b', 'c'].entries()) {
    const namespace = await Namespace.open(t)
    const ends = [`10.99.${index}.1`, `10.99.${index}.2`] as const
    balancer.connect(namespace, `h${index}`, ...ends)
    hosts.push(new Host(t, name, namespace, ends))
  }
  const [a, b] = hosts as [Host, Host, Host]
  for (const host of hosts) await host.start(t)

  const folder = temporaryFolder(t)
  const stats = join(folder, 'stats')
  writeFileSync(join(folder, 'haproxy.cfg'), haproxy(stats, hosts))
  const proxy = balancer.run(t, ['haproxy', '-db', '-f', join(folder, 'haproxy.cfg')])
  const is = (host: Host, pattern: RegExp) =>
    eventually(async () => {
      if (!proxy.running) throw new Error(proxy.lines.join('\n'))
      const row = (await view(stats).catch(() => undefined))?.get(host.name)
      return pattern.test(`${row?.status} ${row?.weight}`)
    }, `HAProxy sees host ${host.name} as ${pattern}`)
  for (const host of hosts) await is(host, /^UP 100$/)

  const clients = balancer.run(
    t,
    [process.execPath, join(root, 'test/programs/balanced-clients.mjs'), '127.0.0.1', '3000'],
    { env: cleanEnvironment() },
  )
  await clients.message('ready')

  const phase = async (name: string, work: () => Promise<unknown>): Promise<Totals> => {
    await work()
    await new Promise((resolve) => setTimeout(resolve, 1000))
    clients.say(name)
    const line = await clients.line((each) => each.includes(`"phase":"${name}"`), `the totals of ${name}`)
    t.comment(line)
    const totals = JSON.parse(line) as Totals
    t.equal(totals.failed, 0, `${name}: no request and no handshake has failed, of ${totals.requests}`)
    t.same(totals.errors, {}, name)
    t.equal(totals.wrong, 0, `${name}: each message was answered with its number`)
    t.ok(totals.requests > 50 && totals.messages > 50, `${name}: there was load`)
    return totals
  }

  await phase('steady', () => new Promise((resolve) => setTimeout(resolve, 2000)))

  const upgraded = await phase('deploy and reload, host by host', async () => {
    for (const host of hosts) {
      await host.baton(t, 'deploy', 'web')
      await host.baton(t, 'reload')
      await is(host, /^UP 100$/)
    }
  })
  t.same(upgraded.closed, {}, 'no WebSocket was closed: they moved on their hosts')
  t.equal(upgraded.unanswered, 0)

  await phase('one host is drained, and comes back', async () => {
    const stopping = b.baton(t, 'stop')
    await is(b, /^DRAIN/)
    await stopping
    await b.stopped()
    await is(b, /^DOWN/)
    await b.start(t)
    await is(b, /^UP 100$/)
  })

  await phase('hosts are upgraded one after the other', async () => {
    for (const host of hosts) {
      await host.baton(t, 'stop')
      await host.stopped()
      await host.start(t)
      await is(host, /^UP 100$/)
    }
  })

  const vanished = await phase('one host vanishes', async () => {
    await a.vanish()
    await is(a, /^DOWN/)
    // WebSocket clients notice the silence, and come back one by one, when HAProxy has given up the host too.
    let asked = 0
    await eventually(async () => {
      const question = `?${asked++}`
      clients.say(question)
      const line = await clients.line((each) => each.includes(`"asked":"${question}"`), 'the totals')
      const { handshakes, closed } = JSON.parse(line) as Totals
      const left = Object.values(closed).reduce((sum, count) => sum + count, 0)
      return left > 0 && handshakes === left
    }, 'each WebSocket that was given up is open again')
  })
  t.not(vanished.handshakes, 0, 'its WebSockets are on other hosts')

  await phase('and comes back', async () => {
    a.come()
    await a.start(t)
    await is(a, /^UP 100$/)
  })
  const rows = await view(stats)
  for (const [name, { sessions }] of rows) t.ok(sessions > 100, `host ${name} had ${sessions} connections`)
})
