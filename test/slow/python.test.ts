import { randomBytes } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Offer } from '@baton/backend-sdk/protocol'
import t, { type Test } from 'tap'
import { unaccounted } from '../support/broker.ts'
import type { Client } from '../support/client.ts'
import { baton } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { FalseBroker, type Registered } from '../support/false-broker.ts'
import { LIMIT } from '../support/limits.ts'
import { PassedClient } from '../support/passed-client.ts'
import { openDescriptors } from '../support/proc.ts'
import { Program, root } from '../support/process.ts'
import { signal } from '../support/signal.ts'
import { type Service, startServices } from '../support/service.ts'

// The package in `examples/python`, with uvicorn: an ASGI application as a backend, alone and beside Node.

/** Debian's, which has Debian's uvicorn; another one may be first in PATH. */
const PYTHON = '/usr/bin/python3'
const skip =
  process.env['CI'] === undefined &&
  spawnSync(PYTHON, ['-c', 'import uvicorn']).status !== 0 &&
  'uvicorn is not installed'
/** Clients are idle for as long as a busy machine takes. */
const KEEP_ALIVE = '3600'
const OPTIONS = ['--log-level', 'warning', '--keep-alive', KEEP_ALIVE]
const COMMAND = [PYTHON, '-m', 'baton_backend', 'asgi_app:app', ...OPTIONS]
const ENVIRONMENT = {
  PYTHONPATH: [join(root, 'examples/python'), join(root, 'test/programs')].join(':'),
  PYTHONDONTWRITEBYTECODE: '1',
}

function startPython(t: Test, control: string, service: string, ...args: string[]): Program {
  const [command = '', ...more] = COMMAND
  return new Program(t, command, [...more, ...args], {
    env: { ...ENVIRONMENT, BATON_SOCKET: control, BATON_SERVICE: service },
  })
}

/** Resolves once it is ready at the broker. */
async function start(t: Test, { broker, name }: Service, ...args: string[]): Promise<Program> {
  const program = startPython(t, broker.control, name, '--drain-deadline', '600', ...args)
  await broker.until(
    ({ services }) =>
      services.some((service) =>
        service.backends.some(({ pid, state }) => pid === program.pid && state === 'ready'),
      ),
    `the Python backend ${program.pid} of ${name}`,
  )
  return program
}

const pidOf = ({ headers }: { headers: Readonly<Record<string, string>> }) => Number(headers['x-pid'])
const exitedWell = { code: 0, signal: null }

void t.test('Python backends of a broker', { timeout: LIMIT, skip }, async (t) => {
  const { broker, services } = await startServices(t, {
    mixed: {},
    moving: {},
    busy: {},
    stuck: {},
    staying: { config: { handBack: 'off' } },
    parking: { config: { parkAfter: '0ms' } },
    managed: {
      config: {
        command: COMMAND,
        env: ENVIRONMENT,
        instances: 2,
        healthCheck: { path: '/', interval: '200ms' },
      },
    },
  })
  const scene = (title: string, act: (t: Test) => Promise<void>) => t.test(title, { timeout: LIMIT }, act)

  await scene('connections are spread over Python and Node', async (t) => {
    const programs = [
      await start(t, services.mixed),
      await start(t, services.mixed),
      await services.mixed.start(t),
    ]
    const clients = await services.mixed.openMany(t, 30)
    const answers = await Promise.all(clients.map((client) => client.get()))
    t.same(new Set(answers.map(pidOf)), new Set(programs.map(({ pid }) => pid)), 'each serves some of them')
    const python = answers.find((answer) => pidOf(answer) === programs[0]?.pid)
    const { client } = JSON.parse(python?.body ?? '') as { client: [string, number] }
    t.ok(
      clients.some(({ port }) => port === client[1]),
      'the app sees the address of its client',
    )

    programs[0]?.kill('SIGTERM')
    programs[2]?.kill('SIGTERM')
    for (const program of [programs[0], programs[2]]) t.same(await program?.exited, exitedWell)
    for (const client of clients)
      t.equal(pidOf(await client.get()), programs[1]?.pid, 'on the same connection')
    for (const client of clients) client.socket.destroy()
  })

  await scene('a drain moves more idle connections than the window has room for', async (t) => {
    const first = await start(t, services.moving)
    const clients = await services.moving.openMany(t, 200)
    for (const client of clients) t.equal(pidOf(await client.get()), first.pid)
    const silent = await services.moving.openMany(t, 10)
    await services.moving.until((state) => state.backends[0]?.adopted === 210, 'all are adopted')
    const next = await start(t, services.moving)
    first.kill('SIGTERM')
    t.same(await first.exited, exitedWell)
    t.ok(
      first.lines.some((line) => line.includes('lifespan over')),
      'the app has shut down',
    )
    for (const client of [...clients, ...silent]) {
      const answer = await client.get()
      t.equal(pidOf(answer), next.pid)
      t.notMatch(answer.headers['connection'] ?? '', 'close')
    }
    const { outcomes } = await services.moving.state()
    t.equal(outcomes.rejected, 0)
    for (const client of [...clients, ...silent]) client.socket.destroy()
  })

  await scene('a request in progress is answered where it is, and then its connection moves', async (t) => {
    const first = await start(t, services.busy)
    const [posting, cut, pipelined, reading] = (await services.busy.openMany(t, 4)) as [
      Client,
      Client,
      Client,
      Client,
    ]
    // Each one is in another state when the drain begins: a body half sent, a head half sent behind a whole request, and an
    // answer that is larger than the kernel takes.
    for (const client of [posting, pipelined]) {
      client.send('POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345')
    }
    cut.send('GET / HTTP/1.1\r\nHost: test\r\n\r\nGET /ag')
    t.equal(pidOf(await cut.answer()), first.pid)
    reading.request('/large')
    await services.busy.until((state) => state.backends[0]?.adopted === 4, 'all are adopted')
    reading.socket.pause()
    const next = await start(t, services.busy)
    first.kill('SIGTERM')
    await services.busy.until(
      ({ backends }) => backends.some(({ pid, state }) => pid === first.pid && state === 'draining'),
      'it drains',
    )
    posting.send('67890')
    pipelined.send('67890GET /again HTTP/1.1\r\nHost: test\r\n\r\n')
    cut.send('ain HTTP/1.1\r\nHost: test\r\n\r\n')
    reading.socket.resume()
    for (const client of [posting, pipelined, cut]) t.equal(pidOf(await client.answer()), first.pid)
    t.equal((await reading.answer()).body.length, 16 * 1024 * 1024)
    // The process that drains has read it with the rest of the request before it, or left it to its successor.
    t.ok([first.pid, next.pid].includes(pidOf(await pipelined.answer())))
    t.same(await first.exited, exitedWell)
    for (const client of [posting, cut, reading, pipelined]) {
      t.equal(pidOf(await client.get()), next.pid, 'the same connection')
      client.socket.destroy()
    }
  })

  await scene('without hand-back an idle connection gets one more answer, which says so', async (t) => {
    const program = await start(t, services.staying)
    const used = await services.staying.open(t)
    const fresh = await services.staying.open(t)
    t.equal(pidOf(await used.get()), program.pid)
    await services.staying.until((state) => state.backends[0]?.adopted === 2, 'both are adopted')
    program.kill('SIGTERM')
    await services.staying.until((state) => state.backends[0]?.state === 'draining', 'it drains')
    for (const client of [used, fresh]) {
      const { status, headers } = await client.get()
      t.match({ status, headers }, { status: 200, headers: { connection: 'close' } })
      t.equal(await client.ended, 'end')
    }
    t.same(await program.exited, exitedWell)
  })

  await scene('with parkAfter each connection waits for its next request in the broker', async (t) => {
    await start(t, services.parking)
    await start(t, services.parking)
    const clients = await services.parking.openMany(t, 20)
    for (let round = 0; round < 5; round++) {
      for (const answer of await Promise.all(clients.map((client) => client.get())))
        t.equal(answer.status, 200)
      await services.parking.until(({ parked }) => parked === 20, 'all are parked')
    }
    for (const client of clients) client.socket.destroy()
    await services.parking.until(({ parked }) => parked === 0, 'the clients have left')
  })

  await scene('deployed under load: each client has one connection, and every answer', async (t) => {
    await services.managed.backends(2)
    const before = new Set((await services.managed.state()).backends.map(({ pid }) => pid))
    const clients = await services.managed.openMany(t, 24)
    let deployed = false
    let answered = 0
    const last = Promise.all(
      clients.map(async (client) => {
        for (;;) {
          const over = deployed
          const answer = await client.get()
          answered++
          t.equal(answer.status, 200)
          t.notMatch(answer.headers['connection'] ?? '', 'close')
          // The connections are idle at different moments.
          await new Promise((resolve) => setTimeout(resolve, client.port % 7))
          if (over) return pidOf(answer)
        }
      }),
    )
    const { code, out, err } = await baton(t, ['deploy', 'managed', '--config', broker.configFile])
    t.equal(code, 0, [...out, ...err].join('\n'))
    deployed = true
    const pids = await last
    t.comment(`${answered} answers`)
    t.notOk(
      pids.some((pid) => before.has(pid)),
      'answered by the new processes',
    )
    t.ok(
      clients.every((client) => client.open),
      'one connection each: none was closed',
    )
    for (const client of clients) client.socket.destroy()
  })

  await scene('SIGKILL ends what the process had adopted, and nothing else', async (t) => {
    const first = await start(t, services.stuck)
    const adopted = await services.stuck.open(t)
    t.equal(pidOf(await adopted.get()), first.pid)
    // It adopts nothing more: what comes now is offered to it, and not answered.
    first.kill('SIGSTOP')
    const offered = await services.stuck.visit(t)
    await services.stuck.until(({ inFlight }) => inFlight === 1, 'it is offered')
    const next = await start(t, services.stuck)
    first.kill('SIGKILL')
    t.equal(pidOf(await offered.answer()), next.pid)
    t.match(await adopted.ended, /^(?:end|ECONNRESET)$/)
    t.equal(pidOf(await offered.get()), next.pid)
    offered.socket.destroy()
  })

  await scene(
    'a worker that dies: connections go on, and the backend registers with the next one',
    async (t) => {
      const program = startPython(t, broker.control, 'moving')
      await services.moving.until(
        ({ backends }) => backends.some(({ pid }) => pid === program.pid),
        'it is there',
      )
      const client = await services.moving.open(t)
      const { status } = await client.get()
      t.equal(status, 200)
      const { master } = (await broker.status()).broker
      const worker = (await broker.status()).broker.pid
      t.ok(master)
      signal(worker, 'SIGKILL')
      await program.line((line) => line.includes('adopted connections continue'), 'the end of control')
      t.equal((await client.get()).status, 200, 'on the same connection')
      await services.moving.until(
        ({ backends }) => backends.some(({ pid, state }) => pid === program.pid && state === 'ready'),
        'registered again',
      )
      client.socket.destroy()
    },
  )

  await scene('every connection is accounted for', async () => {
    await broker.until((status) => unaccounted(status) === 0, 'accounts')
  })

  await scene('when the broker that has started them is killed, its processes drain and end', async (t) => {
    const client = await services.managed.open(t)
    t.equal((await client.get()).status, 200)
    const pids = (await services.managed.state()).backends.map(({ pid }) => pid)
    t.equal(pids.length, 2)
    // Their output goes nowhere from now on: a line that could not be written ended the drain before it began.
    const worker = (await broker.status()).broker.pid
    broker.program.kill('SIGKILL')
    signal(worker, 'SIGKILL')
    client.socket.destroy()
    await eventually(() => !pids.some((pid) => existsSync(`/proc/${pid}`)), 'they have ended')
  })
})

const TTL = 300

void t.test('a Python backend and a scripted broker', { timeout: LIMIT, skip }, async (t) => {
  const broker = new FalseBroker(t)
  const program = startPython(t, broker.control, 'web', '--drain-deadline', '600')
  const peer = await broker.registered({ tokenTtl: TTL, takesBack: { handBackWindow: 64, parkAfter: null } })
  t.same(peer.hello.capabilities, ['handback/1'])
  await peer.sweeps(1)
  const before = openDescriptors(program.pid)

  const patient = (to: Registered, over: Partial<Offer> = {}) =>
    to.offer({ deadline: process.hrtime.bigint() + 600_000_000_000n, ...over })
  const handOver = async (t: Test, to: Registered) => {
    const client = new PassedClient(t)
    const offer = patient(to)
    to.post(offer.token, client.fd)
    to.ring(offer)
    await to.acked(offer)
    t.equal(await client.servedBy(), program.pid)
    return { client, offer }
  }
  const untouched = async (t: Test, client: PassedClient) => {
    t.ok(client.untouched, 'no byte was read or written')
    t.equal(await client.closed(), '', 'every copy is closed, and the client got nothing')
  }
  const bad = (title: string, act: (t: Test) => Promise<void>) =>
    t.test(title, { timeout: LIMIT }, async (t) => {
      await act(t)
      const { client } = await handOver(t, peer)
      client.leave()
      await eventually(
        () => openDescriptors(program.pid) === before,
        () => `${openDescriptors(program.pid)} descriptors, not ${before}`,
      )
    })

  await bad('a wrong token is refused, and the connection is closed untouched', async (t) => {
    const client = new PassedClient(t)
    const offer = peer.offer()
    const wrong = randomBytes(16)
    peer.post(wrong, client.fd)
    peer.ring(offer)
    t.equal((await peer.nacked(wrong)).reason, 'TokenMismatch')
    await untouched(t, client)
  })

  await bad('a token is good for one connection', async (t) => {
    const { client, offer } = await handOver(t, peer)
    const again = new PassedClient(t)
    const fair = patient(peer)
    const beside = new PassedClient(t)
    peer.post(offer.token, again.fd)
    peer.post(fair.token, beside.fd)
    peer.ring(fair)
    t.equal((await peer.nacked(offer.token)).reason, 'TokenNotPending')
    await untouched(t, again)
    t.equal(await beside.servedBy(), program.pid)
    beside.leave()
    client.leave()
  })

  await bad('a token that comes too late is refused', async (t) => {
    const client = new PassedClient(t)
    const offer = peer.offer({ deadline: process.hrtime.bigint() - 1n })
    peer.post(offer.token, client.fd)
    peer.ring(offer)
    t.equal((await peer.nacked(offer.token)).reason, 'TokenExpired')
    await untouched(t, client)
  })

  for (const length of [0, 15, 17]) {
    const reason = length === 0 ? 'ControlTruncated' : 'TokenInvalidLength'
    const what = length === 0 ? 'a message with two descriptors' : `a token of ${length} bytes`
    await bad(`${what}: ${reason}`, async (t) => {
      const client = new PassedClient(t)
      const offer = patient(peer)
      const shown = Buffer.concat([offer.token, Buffer.from('x')]).subarray(0, length || 16)
      peer.post(shown, ...(length === 0 ? [client.fd, client.fd] : [client.fd]))
      peer.ring(offer)
      t.equal((await peer.nacked(shown.subarray(0, 16))).reason, reason)
      await untouched(t, client)
    })
  }

  await t.test('what a drain hands back is its own again if the broker does not take it', async (t) => {
    const clients = [await handOver(t, peer), await handOver(t, peer), await handOver(t, peer)]
    program.kill('SIGTERM')
    const entries = await peer.handedBack(3)
    t.same(
      entries.map(({ kind }) => kind),
      ['idle', 'idle', 'idle'],
    )
    t.same(
      new Set(entries.map(({ connection }) => Buffer.from(connection).toString('hex'))),
      new Set(clients.map(({ offer }) => Buffer.from(offer.connection).toString('hex'))),
    )
    const copies = peer.takeBack(3)
    t.equal(copies.length, 3)
    // The first is taken; the broker dies without a word about the others.
    const [first] = entries
    peer.wire.write({ type: 'taken', sequences: [first?.sequence as number] })
    for (const copy of copies) copy.close()
    peer.die()
    const [taken] = clients.filter(({ offer }) => first?.connection.equals(offer.connection))
    t.ok(taken)
    const kept = clients.filter((each) => each !== taken)
    for (const { client } of kept) {
      client.again()
      t.equal(await client.servedBy(), program.pid, 'it serves those that the broker has not taken')
    }
    await taken?.client.closed()
    t.pass('no copy of the one that was taken is left')

    const next = await broker.registered({ takesBack: { handBackWindow: 64, parkAfter: null } })
    t.equal(next.hello.draining, true)
    t.equal(next.hello.backend, peer.id)
    t.equal((await next.handedBack(2)).length, 2)
    const again = next.takeBack(2)
    const sequences = next.wire
      .all('handback')
      .flatMap(({ entries }) => entries.map(({ sequence }) => sequence))
    next.wire.write({
      type: 'given_back',
      entries: [{ sequence: sequences[0] as number, reason: 'NoTaker' }],
    })
    next.wire.write({ type: 'taken', sequences: [sequences[1] as number] })
    for (const copy of again) copy.close()
    const [stays] = kept.filter(({ offer }) =>
      next.wire.all('handback')[0]?.entries[0]?.connection.equals(offer.connection),
    )
    stays?.client.again()
    t.equal(await stays?.client.servedBy(), program.pid)
    t.match(stays?.client.answer, /connection: close/i, 'its last answer')
    await next.wire.frame('drained')
    t.same(await program.exited, exitedWell)
  })
})
