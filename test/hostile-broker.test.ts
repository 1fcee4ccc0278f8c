import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { encodeFrame, FrameType, type Frame, type Offer } from '@baton/backend-sdk/protocol'
import { sendMessage, socketpair } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { eventually } from './support/eventually.ts'
import { FalseBroker, type Registered } from './support/false-broker.ts'
import { LIMIT, starts } from './support/limits.ts'
import { PassedClient } from './support/passed-client.ts'
import { openDescriptors } from './support/proc.ts'
import { Program, root } from './support/process.ts'

// A real backend and a broker that breaks the rules: what the SDK adopts and what it must not touch.

/** With a fraction, which the protocol allows: a backend could not begin a session with it, and dialled without end. */
const TTL = 300.5
/** Never reached in a test. */
const MINUTES = 600_000
/** The SDK removes expired entries once a second. */
const SWEEP = 1000

async function startBackend(t: Test, broker: FalseBroker, options: { tokenTtl?: number } = {}) {
  const program = new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  })
  const peer = await broker.registered(options)
  await program.message('ready')
  return { program, peer }
}

/** An offer with deadlines that no backend misses. */
function patient(peer: Registered, over: Partial<Offer> = {}): Offer {
  return peer.offer({ deadline: process.hrtime.bigint() + 600_000_000_000n, ...over })
}

/** A complete honest handoff: the backend answers on the connection. */
async function handOver(t: Test, peer: Registered, pid: number): Promise<PassedClient> {
  const client = new PassedClient(t)
  const offer = patient(peer)
  peer.post(offer.token, client.fd)
  peer.ring(offer)
  await peer.acked(offer)
  t.equal(await client.servedBy(), pid, 'the honest connection is served meanwhile')
  return client
}

async function honest(t: Test, peer: Registered, pid: number): Promise<void> {
  const client = await handOver(t, peer, pid)
  client.leave()
}

/** Everything that the backend received was closed, and nothing was read from or written to it. */
async function untouched(t: Test, client: PassedClient): Promise<void> {
  t.ok(client.untouched, 'no byte was read or written')
  t.equal(await client.closed(), '', 'every copy is closed, and the client got nothing')
}

async function direct(program: Program): Promise<void> {
  const { port } = await program.message('listening')
  await (await fetch(`http://127.0.0.1:${Number(port)}/`, { headers: { connection: 'close' } })).text()
}

void t.test('bad tokens on a real lane', { timeout: LIMIT }, async (t) => {
  const broker = new FalseBroker(t)
  const { program, peer } = await startBackend(t, broker, { tokenTtl: TTL })
  const { pid } = program
  const before = openDescriptors(pid)

  /** Each case: the attack, an honest connection after it, and the backend's descriptors afterwards. */
  const bad = (name: string, attack: (t: Test) => Promise<void>) =>
    t.test(name, { timeout: LIMIT }, async (t) => {
      await attack(t)
      await honest(t, peer, pid)
      await eventually(
        () => openDescriptors(pid) === before,
        () => `${openDescriptors(pid)} descriptors, not ${before}`,
      )
      t.pass('its descriptors are as many as before')
    })

  await bad('a token that does not match the offer is a TokenMismatch, at tokenTtl', async (t) => {
    const client = new PassedClient(t)
    const offer = peer.offer()
    const other = peer.offer().token
    const sent = performance.now()
    peer.post(other, client.fd)
    peer.ring(offer)
    const { reason, at } = await peer.nacked(other)
    t.equal(reason, 'TokenMismatch')
    t.ok(at - sent >= TTL, `parked for ${at - sent} ms`)
    t.ok(at - sent < TTL + 2 * SWEEP + starts(1), 'and not indefinitely')
    await untouched(t, client)
  })

  await bad('after a wrong token the pending one stays intact', async (t) => {
    const [wrong, right] = [new PassedClient(t), new PassedClient(t)]
    const offer = patient(peer)
    const other = peer.offer().token
    peer.post(other, wrong.fd)
    peer.ring(offer)
    const { reason } = await peer.nacked(other)
    t.equal(reason, 'TokenNotPending', 'the offer has time left, so it does not explain the wrong token')
    await untouched(t, wrong)
    peer.post(offer.token, right.fd)
    await peer.acked(offer)
    t.equal(await right.servedBy(), pid)
    right.leave()
  })

  await bad('a token works once, whether its descriptor is repeated alone or with its OFFER', async (t) => {
    const first = new PassedClient(t)
    const offer = patient(peer)
    peer.post(offer.token, first.fd)
    peer.ring(offer)
    await peer.acked(offer)
    for (const offered of ['once', 'twice']) {
      const again = offered === 'once' ? [] : [{ ...patient(peer), token: offer.token }]
      const replayed = new PassedClient(t)
      const fair = patient(peer)
      const beside = new PassedClient(t)
      const refused = peer.nacks.length
      peer.post(offer.token, replayed.fd)
      peer.post(fair.token, beside.fd)
      peer.ring(...again, fair)
      await eventually(() => peer.nacks.length > refused, 'the replay is refused')
      t.same(peer.nacks.slice(refused), ['TokenNotPending'])
      await untouched(t, replayed)
      t.equal(await beside.servedBy(), pid)
      beside.leave()
    }
    t.equal(await first.servedBy(), pid, 'the connection that spent it continues')
    first.leave()
  })

  await bad('a token past its deadline is TokenExpired, told apart from a mismatch', async (t) => {
    const client = new PassedClient(t)
    const offer = peer.offer({ deadline: process.hrtime.bigint() - 1n })
    peer.post(offer.token, client.fd)
    peer.ring(offer)
    const { reason, sequence } = await peer.nacked(offer.token)
    t.same({ reason, sequence }, { reason: 'TokenExpired', sequence: offer.sequence })
    await untouched(t, client)
  })

  for (const length of [1, 15, 17, 64]) {
    await bad(
      `a token of ${length} bytes is TokenInvalidLength, and the pending one stays intact`,
      async (t) => {
        const [wrong, right] = [new PassedClient(t), new PassedClient(t)]
        const offer = patient(peer)
        // One byte of 0, padded with zeros in the NACK, would look like the NACK of the next scene: that failed once in 256 runs.
        offer.token[0] ||= 1
        const shown = Buffer.concat([offer.token, offer.token, offer.token, offer.token]).subarray(0, length)
        peer.post(shown, wrong.fd)
        peer.post(offer.token, right.fd)
        peer.ring(offer)
        const { reason, sequence } = await peer.nacked(shown)
        t.same({ reason, sequence }, { reason: 'TokenInvalidLength', sequence: 0 })
        await untouched(t, wrong)
        await peer.acked(offer)
        t.equal(await right.servedBy(), pid)
        right.leave()
      },
    )
  }

  await bad('a descriptor with no token at all is TokenMissing', async (t) => {
    const client = new PassedClient(t)
    // This package refuses to send an empty message; the kernel does not.
    const script = [
      'import array, socket',
      'lane = socket.socket(fileno=3)',
      'lane.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [4]))])',
    ].join('\n')
    const python = spawnSync('python3', ['-c', script], {
      stdio: ['ignore', 'ignore', 'pipe', peer.lane.fd, client.fd],
    })
    t.equal(python.status, 0, python.stderr.toString())
    const fair = patient(peer)
    const beside = new PassedClient(t)
    peer.post(fair.token, beside.fd)
    peer.ring(fair)
    const { reason, sequence } = await peer.nacked(Buffer.alloc(16))
    t.same({ reason, sequence }, { reason: 'TokenMissing', sequence: 0 })
    await untouched(t, client)
    t.equal(await beside.servedBy(), pid)
    beside.leave()
  })

  for (const [name, count] of [
    ['no descriptor', 0],
    ['two descriptors', 2],
    ['200 descriptors', 200],
  ] as const) {
    await bad(`a right token with ${name} is ControlTruncated`, async (t) => {
      const clients = [new PassedClient(t), new PassedClient(t)]
      const offer = patient(peer)
      peer.post(offer.token, ...Array.from({ length: count }, (_, index) => clients[index % 2]?.fd ?? -1))
      peer.ring(offer)
      const { reason, sequence } = await peer.nacked(offer.token)
      t.same({ reason, sequence }, { reason: 'ControlTruncated', sequence: offer.sequence })
      for (const client of clients) await untouched(t, client)
    })
  }

  await bad('an OFFER whose descriptor never comes is dropped silently', async (t) => {
    const refused = peer.nacks.length
    peer.ring(peer.offer(), peer.offer())
    await honest(t, peer, pid)
    // Two sweeps later, its deadline and the grace period for a late descriptor have both expired.
    await peer.sweeps(2)
    t.equal(peer.nacks.length, refused, 'not a word')
  })

  await bad('a revoked offer is forgotten; its descriptor, if it still comes, is refused', async (t) => {
    const refused = peer.nacks.length
    const offer = patient(peer)
    peer.wire.write({ type: 'offer', offers: [offer] }, { type: 'revoke', sequences: [offer.sequence] })
    await honest(t, peer, pid)
    t.equal(peer.nacks.length, refused, 'not a word')
    const client = new PassedClient(t)
    peer.post(offer.token, client.fd)
    await honest(t, peer, pid)
    t.ok(client.untouched, 'its deadline has not passed, and it is not adopted')
    t.equal((await peer.nacked(offer.token)).reason, 'TokenNotPending')
    await untouched(t, client)
  })

  // Longer than the interval between sweeps: a sweep in between must not remove parked descriptors.
  const longer = 1.2 * SWEEP
  const other = await startBackend(t, broker, { tokenTtl: longer })
  await t.test('a descriptor without OFFER is parked, and refused at tokenTtl, not before', async (t) => {
    const client = new PassedClient(t)
    const { token } = other.peer.offer()
    const before = openDescriptors(other.program.pid)
    const sent = performance.now()
    other.peer.post(token, client.fd)
    await honest(t, other.peer, other.program.pid)
    await other.peer.laneEmpty()
    const { reason, sequence, at } = await other.peer.nacked(token)
    t.same({ reason, sequence }, { reason: 'TokenNotPending', sequence: 0 })
    t.ok(at - sent >= longer, `parked for ${at - sent} ms`)
    t.ok(at - sent < longer + 2 * SWEEP + starts(1), 'and not indefinitely')
    await untouched(t, client)
    await eventually(
      () => openDescriptors(other.program.pid) === before,
      'its descriptors are as many as before',
    )
  })

  await t.test("another backend's token is worth nothing here, and stays intact there", async (t) => {
    const refused = other.peer.nacks.length
    const [wrong, right] = [new PassedClient(t), new PassedClient(t)]
    const offer = patient(other.peer)
    other.peer.ring(offer)
    peer.post(offer.token, wrong.fd)
    await honest(t, peer, pid)
    t.equal((await peer.nacked(offer.token)).reason, 'TokenNotPending')
    await untouched(t, wrong)
    other.peer.post(offer.token, right.fd)
    await other.peer.acked(offer)
    t.equal(await right.servedBy(), other.program.pid)
    right.leave()
    t.equal(other.peer.nacks.length, refused, 'and nothing was refused there')
  })

  await t.test('no token that was on the wire is in the output of the backend', async (t) => {
    program.kill('SIGTERM')
    await program.exited
    const printed = program.lines.join('\n')
    t.match(printed, 'TokenMismatch', 'its refusals are in the output')
    t.ok(peer.tokens.length > 20)
    for (const token of peer.tokens) {
      for (const encoding of ['hex', 'base64', 'base64url', 'latin1'] as const) {
        const form = token.toString(encoding)
        if (printed.toLowerCase().includes(form.toLowerCase())) t.fail(`a token as ${encoding}`)
      }
      if (printed.includes([...token].join(','))) t.fail('a token as a list')
    }
  })
})

/** Makes the backend write until the kernel's buffer is full: it answers each probe, and the test reads none. */
async function backUp(peer: Registered, program: Program): Promise<void> {
  peer.wire.pause()
  const probes: Frame[] = Array.from({ length: 1000 }, (_, index) => ({
    type: 'heartbeat',
    id: index + 1,
    reply: false,
  }))
  for (let round = 0; round < 3; round++) {
    peer.wire.write(...probes)
    await direct(program)
  }
}

void t.test('an ACK that cannot be sent, and an open lane', { timeout: LIMIT }, async (t) => {
  // One backend, which registers again after each scene.
  const broker = new FalseBroker(t)
  const first = await startBackend(t, broker, { tokenTtl: MINUTES })
  const { program } = first
  const logged = (msg: string) => program.messages().filter((message) => message['msg'] === msg).length
  /** Its log line may arrive later than its response. */
  const hasAdopted = (count: number) => eventually(() => logged('adopt') === count, `${count} are adopted`)

  await t.test('ACK before touch, when the ACK cannot reach the kernel', { timeout: LIMIT }, async (t) => {
    const { peer } = first
    await backUp(peer, program)
    const client = new PassedClient(t)
    const offer = patient(peer)
    peer.post(offer.token, client.fd)
    peer.ring(offer)
    await peer.laneEmpty()
    // Its event loop has turned since, so an adoption would show.
    await direct(program)
    await direct(program)
    t.ok(client.untouched, 'taken and verified, and not a byte read or written')
    t.equal(logged('adopt'), 0)
    peer.wire.read()
    await peer.acked(offer)
    t.equal(await client.servedBy(), program.pid, 'adopted once the ACK could go')
    await hasAdopted(1)
    client.leave()
    peer.die()
  })

  await t.test(
    'control ends with the ACK undelivered, and the lane stays open',
    { timeout: LIMIT },
    async (t) => {
      const backedUp = async (t: Test, tokenTtl: number) => {
        const peer = await broker.registered({ tokenTtl })
        await backUp(peer, program)
        const client = new PassedClient(t)
        const offer = patient(peer)
        peer.post(offer.token, client.fd)
        peer.ring(offer)
        await peer.laneEmpty()
        const disconnections = logged('disconnected')
        peer.wire.close()
        await eventually(() => logged('disconnected') > disconnections, 'it emits disconnected')
        await direct(program)
        t.ok(client.untouched, 'not adopted: another one may hold the lane')
        return { peer, client }
      }

      await t.test('it is adopted once the lane ends too', async (t) => {
        const { peer, client } = await backedUp(t, MINUTES)
        peer.receiveEnd.close()
        await direct(program)
        t.ok(client.untouched, 'another process may still hold the send end')
        peer.lane.close()
        t.equal(await client.servedBy(), program.pid)
        await hasAdopted(2)
        client.leave()
      })

      await t.test('it is closed untouched at tokenTtl when the lane does not end', async (t) => {
        const { peer, client } = await backedUp(t, TTL)
        await untouched(t, client)
        t.equal(logged('adopt'), 2, 'as many as before')
        peer.die()
      })
    },
  )

  await t.test(
    'offers on the lane of a broker that dies are adopted by the backend',
    { timeout: LIMIT },
    async (t) => {
      const peer = await broker.registered({ tokenTtl: MINUTES })
      const [offered, stranger] = [new PassedClient(t), new PassedClient(t)]
      const offer = patient(peer)
      const none = patient(peer)
      peer.post(offer.token, offered.fd)
      peer.post(none.token, stranger.fd)
      peer.ring(offer)
      peer.die()
      t.equal(await offered.servedBy(), program.pid, 'no other one can have it')
      offered.leave()
      await untouched(t, stranger)
      t.equal((await broker.registered()).hello.backend, peer.id, 'it dials again, as the same backend')
    },
  )
})

void t.test(
  'protocol violations end the connection, and the backend redials',
  { timeout: LIMIT },
  async (t) => {
    const header = (length: number, type: number) => {
      const bytes = Buffer.alloc(5)
      bytes.writeUInt32LE(length, 0)
      bytes[4] = type
      return bytes
    }
    const offer = encodeFrame({
      type: 'offer',
      offers: [
        {
          sequence: 1,
          token: randomBytes(16),
          connection: randomBytes(16),
          deadline: 0n,
          kind: 'descriptor',
          listener: 'web',
          meta: undefined,
          resumed: undefined,
        },
      ],
    })
    const untimely: Frame[] = [
      { type: 'rebalance', count: 1 },
      { type: 'ticket_keys', keys: [Buffer.alloc(48).toString('base64')] },
      { type: 'taken', sequences: [1] },
      { type: 'given_back', entries: [{ sequence: 1, reason: 'NoTaker' }] },
      { type: 'settled', entries: [{ sequence: 1, outcome: 'ended' }] },
    ]
    const after: (readonly [what: string, code: string, bytes: Buffer])[] = [
      ['a frame of length 0', 'BATON_ERR_FRAME_MALFORMED', Buffer.alloc(4)],
      ['a frame over 1 MiB', 'BATON_ERR_FRAME_TOO_LARGE', header(1_048_577, FrameType.OFFER)],
      ['an unknown type below 0x80', 'BATON_ERR_FRAME_UNKNOWN_TYPE', header(1, 0x7f)],
      [
        'a truncated OFFER',
        'BATON_ERR_FRAME_MALFORMED',
        Buffer.concat([header(3, FrameType.OFFER), Buffer.from([1, 0])]),
      ],
      [
        'DRAIN that is not JSON',
        'BATON_ERR_FRAME_MALFORMED',
        Buffer.concat([header(2, FrameType.DRAIN), Buffer.from('{')]),
      ],
      ['a second WELCOME', 'BATON_ERR_FRAME_OUT_OF_ORDER', welcomeBytes()],
      ["a backend's frame", 'BATON_ERR_FRAME_OUT_OF_ORDER', encodeFrame({ type: 'drained' })],
      ...untimely.map(
        (frame) =>
          [`${frame.type} that was not granted`, 'BATON_ERR_FRAME_OUT_OF_ORDER', encodeFrame(frame)] as const,
      ),
      [
        'an OFFER of sequence 0',
        'BATON_ERR_FRAME_MALFORMED',
        Buffer.concat([offer.subarray(0, 7), Buffer.alloc(8), offer.subarray(15)]),
      ],
    ]
    const instead: [what: string, answer: Buffer, fds: number][] = [
      ['an OFFER', offer, 0],
      ['a frame over 64 KiB', header(65_537, FrameType.WELCOME), 0],
      ['a frame of length 0', Buffer.alloc(4), 0],
      ['WELCOME without a lane', welcomeBytes(), 0],
      ['WELCOME with two descriptors', welcomeBytes(), 2],
    ]

    interface Scene {
      program: Program
      broker: FalseBroker
      peer: Registered
    }
    const brokenAfter = ([what, code, bytes]: (typeof after)[number], scene: Scene) =>
      t.test(`${what}, after WELCOME: ${code}`, async (t) => {
        const { program, broker, peer } = scene
        const codes = () =>
          program.messages().flatMap((line) => (line['msg'] === 'disconnected' ? [line['code']] : []))
        const earlier = codes().length
        const pending = new PassedClient(t)
        peer.post(peer.offer().token, pending.fd)
        peer.wire.write(bytes)
        await peer.wire.end()
        await eventually(() => codes().length > earlier, 'the backend emits disconnected')
        t.same(codes().slice(earlier), [code])
        peer.die()
        await untouched(t, pending)
        scene.peer = await broker.registered()
        t.equal(scene.peer.hello.backend, peer.id, 'registers again, as the same backend')
        await honest(t, scene.peer, program.pid)
      })
    const brokenInstead = ([what, answer, count]: (typeof instead)[number], scene: Scene) =>
      t.test(`${what} instead of WELCOME: redials`, async (t) => {
        scene.peer.die()
        const { wire } = await scene.broker.dialled()
        const [left, right] = socketpair('seqpacket')
        sendMessage(wire.fd.fd, { bytes: answer, fds: [left.fd, right.fd].slice(0, count) })
        left.close()
        right.close()
        await wire.end()
        scene.peer = await scene.broker.registered()
        await honest(t, scene.peer, scene.program.pid)
      })

    // A backend that is dropped repeatedly dials more and more slowly, so a new one takes over after a few.
    const cases = [
      ...after.map((each) => (scene: Scene) => brokenAfter(each, scene)),
      ...instead.map((each) => (scene: Scene) => brokenInstead(each, scene)),
    ]
    const AT_A_TIME = 5
    for (let at = 0; at < cases.length; at += AT_A_TIME) {
      const broker = new FalseBroker(t)
      const { program, peer } = await startBackend(t, broker)
      const kept = await handOver(t, peer, program.pid)
      const before = openDescriptors(program.pid)
      const scene = { program, broker, peer }
      for (const run of cases.slice(at, at + AT_A_TIME)) await run(scene)
      kept.again()
      t.equal(await kept.servedBy(), program.pid, 'a connection adopted before all this was not disturbed')
      await eventually(
        () => openDescriptors(program.pid) === before,
        () => `${openDescriptors(program.pid)} descriptors, not ${before}`,
      )
      program.kill('SIGKILL')
    }
  },
)

void t.test('a type from 0x80 up is skipped, before WELCOME too', { timeout: LIMIT }, async (t) => {
  const broker = new FalseBroker(t)
  const program = new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' },
  })
  const { wire } = await broker.dialled()
  wire.write(Buffer.from([2, 0, 0, 0, 0xfe, 0]))
  const [lane, receiveEnd] = socketpair('seqpacket')
  t.teardown(() => {
    lane.close()
    receiveEnd.close()
  })
  sendMessage(wire.fd.fd, { bytes: welcomeBytes(), fds: [receiveEnd.fd] })
  await program.message('ready')
  wire.write(Buffer.from([2, 0, 0, 0, 0xff, 0]), { type: 'heartbeat', id: 7, reply: false })
  t.match(await wire.frame('heartbeat'), { id: 7, reply: true })
})

function welcomeBytes(): Buffer {
  const id = '01ARZ3NDEKTSV4RRFFQ69G5FAV'
  return encodeFrame({
    type: 'welcome',
    protocol: 1,
    capabilities: [],
    broker: id,
    backend: id,
    slot: 'web-1',
    service: 'web',
    heartbeatInterval: 1000,
    tokenTtl: 5000,
    ackDeadline: 500,
    handBackWindow: null,
    parkAfter: null,
  })
}
