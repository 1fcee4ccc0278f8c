import { randomBytes } from 'node:crypto'
import { close, dup, NativeError, OwnedFd, ReceiveBatch } from '@baton/native-sendmsg'
import { NACK_REASONS } from '@baton/backend-sdk/protocol'
import t from 'tap'
import type { ClientConnection } from '../src/worker/connection/connection.ts'
import { consequenceOf, failureOf, type FailureCode } from '../src/worker/connection/failure.ts'
import { FailureLimit } from '../src/worker/backend/failure-limit.ts'
import { Lane } from '../src/worker/backend/lane.ts'
import { OfferLedger, type OpenOffer, type Unmatched } from '../src/worker/backend/offer-ledger.ts'
import { createToken } from '../src/worker/backend/offer-ledger.ts'
import type { Listener } from '../src/worker/listen/listener.ts'
import { FAILURE_REASONS } from '../src/metrics/labels.ts'
import { Heartbeat } from '../src/worker/backend/heartbeat.ts'

let order = 0

/** The ledger reads only the id of a connection. */
function connection(): ClientConnection {
  return {
    order: ++order,
    fd: { fd: 99 } as OwnedFd,
    listener: { name: 'web' } as Listener,
    peer: { family: 'unix', address: '', port: 0 },
    id: randomBytes(16),
    acceptedAt: 0,
    tried: undefined,
    pressedSince: undefined,
  }
}

function isOffer(found: OpenOffer | Unmatched): found is OpenOffer {
  return typeof found !== 'string'
}

void t.test('tokens: 16 bytes each, no two alike, none overwritten by a later one', async (t) => {
  const tokens = Array.from({ length: 1000 }, createToken)
  const copies = tokens.map((token) => token.toString('hex'))
  t.ok(tokens.every((token) => token.length === 16))
  t.equal(new Set(copies).size, 1000)
  t.same(
    tokens.map((token) => token.toString('hex')),
    copies,
  )
})

void t.test('an ACK with a wrong echo, or for another connection, does not settle this one', async (t) => {
  const ledger = new OfferLedger()
  const [mine, other] = [connection(), connection()]
  const first = ledger.open(mine, createToken(), 500)
  ledger.open(other, createToken(), 500)
  t.equal(ledger.acked(first.sequence, other.id), 'never-made', 'the echo of another connection')
  t.equal(ledger.acked(first.sequence, randomBytes(16)), 'never-made')
  t.equal(ledger.size, 2, 'both are open still')
  t.equal(ledger.acked(first.sequence, mine.id), first)
  t.equal(ledger.acked(3, mine.id), 'never-made', 'a sequence that was not offered yet')
})

void t.test(
  'the first late ACK of a relinquished offer is told apart from its later repetitions',
  async (t) => {
    // Every late ACK was counted as load: a backend could repeat one to look as busy as it liked.
    const ledger = new OfferLedger()
    const client = connection()
    const offer = ledger.open(client, randomBytes(16), 10)
    t.equal(ledger.noteTaken(11), 1)
    t.equal(ledger.relinquish(0), offer)
    t.equal(ledger.acked(offer.sequence, client.id), 'given-up')
    t.equal(ledger.acked(offer.sequence, client.id), 'settled')
    const relay = ledger.open(connection(), randomBytes(16), 10, 'relay')
    t.same(ledger.overdueRelays(11), [relay])
    t.equal(ledger.acked(relay.sequence, relay.connection.id), 'given-up')
    t.equal(ledger.acked(relay.sequence, relay.connection.id), 'settled')
    const refused = ledger.open(connection(), randomBytes(16), 10)
    t.equal(ledger.nacked(refused.sequence, refused.token), refused)
    t.equal(ledger.acked(refused.sequence, refused.connection.id), 'settled')
    t.equal(ledger.acked(99, client.id), 'never-made')
    t.equal(ledger.size, 0)
  },
)

void t.test('a late ACK is ignored and counted: its offer is settled', async (t) => {
  const ledger = new OfferLedger()
  const client = connection()
  const offer = ledger.open(client, createToken(), 500)
  t.equal(ledger.readBack(offer.token), offer, 'revoked')
  t.equal(ledger.acked(offer.sequence, client.id), 'settled')
  t.equal(ledger.nacked(offer.sequence, offer.token), 'settled')
  t.equal(ledger.readBack(offer.token), undefined)
})

void t.test(
  'a taken offer stays with its backend until an answer or the end; over the bound the oldest is relinquished',
  async (t) => {
    const ledger = new OfferLedger()
    const offers = Array.from({ length: 4 }, (_, index) =>
      ledger.open(connection(), createToken(), 500 + index),
    )
    t.equal(ledger.nextDue(), 500)
    ledger.readBack((offers[3] as OpenOffer).token)
    t.equal(ledger.noteTaken(501), 2, 'those past the deadline')
    t.equal(ledger.nextDue(), 502, 'taken ones are not due again')
    t.equal(ledger.noteTaken(600), 1)
    t.equal(ledger.taken, 3)
    t.equal(ledger.relinquish(3), undefined)
    t.equal(ledger.relinquish(2), offers[0])
    t.equal(ledger.relinquish(2), undefined)
    const second = offers[1] as OpenOffer
    t.equal(
      ledger.acked(second.sequence, second.connection.id),
      second,
      'a late ACK of one that is still kept',
    )
    t.equal(ledger.taken, 1)
    t.same(ledger.end(), [offers[2]])
    t.equal(ledger.size, 0)
    t.equal(ledger.taken, 0)
  },
)

void t.test('a NACK without a sequence settles the offer whose token came with the descriptor', async (t) => {
  const ledger = new OfferLedger()
  const offer = ledger.open(connection(), createToken(), 500)
  t.equal(
    ledger.nacked(0, randomBytes(16)),
    'settled',
    'for no offer: nothing moves, and it is not a violation',
  )
  t.equal(ledger.size, 1)
  const found = ledger.nacked(0, offer.token)
  t.ok(isOffer(found) && found === offer)
  t.equal(ledger.nacked(99, offer.token), 'never-made')
})

void t.test('when a lane ends, only the backend can read it', async (t) => {
  // The backend sees the end of the lane when the send end is closed, and then adopts without an ACK. So the broker must
  // first close its own copy of the receive end, which could take messages back.
  const lane = new Lane()
  const backend = dup(lane.receiveEnd)
  t.teardown(() => close(backend.release()))
  const receiving = new ReceiveBatch(1, 16)
  const { receiveEnd } = lane
  const closed: { end: 'receive' | 'send'; seen: 'open' | 'ended' }[] = []
  t.capture(OwnedFd.prototype, 'close', function (this: OwnedFd) {
    const fd = this.release()
    close(fd)
    const seen = receiving.receive(backend.fd, 1).ended ? 'ended' : 'open'
    closed.push({ end: fd === receiveEnd ? 'receive' : 'send', seen })
  })
  lane.close()
  t.same(closed, [
    { end: 'receive', seen: 'open' },
    { end: 'send', seen: 'ended' },
  ])
})

void t.test('each failure has its decision, and its metric', async (t) => {
  const table: Record<FailureCode, [counts: boolean, next: string]> = {
    UnsupportedPlatform: [false, 'reconnect'],
    PermissionDenied: [true, 'next-backend'],
    BackendSocketUnavailable: [true, 'next-backend'],
    WouldBlock: [false, 'next-backend'],
    FdPressure: [false, 'wait'],
    PartialSend: [true, 'never-reoffered'],
    SendFailed: [true, 'next-backend'],
    BackendAckTimeout: [true, 'next-backend'],
    TokenMissing: [true, 'next-backend'],
    TokenInvalidLength: [true, 'next-backend'],
    TokenMismatch: [true, 'next-backend'],
    TokenExpired: [true, 'next-backend'],
    TokenNotPending: [true, 'next-backend'],
    ControlTruncated: [false, 'next-backend'],
    BackendDraining: [false, 'next-backend'],
    BackendOverloaded: [false, 'next-backend'],
    NotResumable: [false, 'next-backend'],
    BackendGone: [true, 'next-backend'],
    ProtocolViolation: [true, 'next-backend'],
  }
  for (const [code, [countsAgainstBackend, next]] of Object.entries(table) as [
    FailureCode,
    [boolean, string],
  ][]) {
    t.same(consequenceOf(code), { countsAgainstBackend, next }, code)
  }
  t.same([...FAILURE_REASONS].toSorted(), Object.keys(table).toSorted())
  for (const reason of NACK_REASONS) t.ok(reason in table, reason)
})

void t.test('each errno is mapped to its failure', async (t) => {
  const cases: [errno: number, code: FailureCode][] = [
    [1, 'PermissionDenied'],
    [2, 'BackendSocketUnavailable'],
    [11, 'WouldBlock'],
    [13, 'PermissionDenied'],
    [22, 'SendFailed'],
    [23, 'FdPressure'],
    [24, 'FdPressure'],
    [32, 'BackendSocketUnavailable'],
    [104, 'BackendSocketUnavailable'],
    [105, 'WouldBlock'],
    [107, 'BackendSocketUnavailable'],
    [109, 'FdPressure'],
    [111, 'BackendSocketUnavailable'],
  ]
  for (const [errno, code] of cases) {
    t.match(failureOf(new NativeError('sendmmsg', errno, {}), '/run/x', 7), { code }, `${errno} is ${code}`)
  }
  t.match(failureOf(new NativeError('sendmsg', 13, {}), '/run/x', 7), { fd: 7, errno: 13, path: '/run/x' })
  t.match(failureOf(new NativeError('connect', 13, {}), '/run/x', -1), { fd: -1 })
  t.match(failureOf(new NativeError('sendmsg', 22, {}), '/run/x', 7), { code: 'SendFailed', errno: 22 })
})

void t.test('eight failures in 30 s suppress attempts for 30 s; a success resets the count', async (t) => {
  const limit = new FailureLimit({ failures: 8, window: 30_000, pause: 30_000 })
  for (let at = 0; at < 7; at++) limit.failed(at * 1000)
  t.equal(limit.retryAfter(7000), 0)
  limit.succeeded()
  for (let at = 8; at < 15; at++) limit.failed(at * 1000)
  t.equal(limit.retryAfter(15_000), 0, 'the count restarted')
  limit.failed(15_000)
  t.equal(limit.retryAfter(15_000), 30_000)
  t.equal(limit.retryAfter(44_000), 1000)
  t.equal(limit.retryAfter(45_000), 0)

  limit.succeeded()
  t.equal(limit.retryAfter(16_000), 0, 'a success ends the pause')

  const slow = new FailureLimit({ failures: 8, window: 30_000, pause: 30_000 })
  for (let at = 0; at < 20; at++) slow.failed(at * 5000)
  t.equal(slow.retryAfter(100_000), 0, 'never eight within 30 s')
})

void t.test('a relay that succeeds forgets failed relays, and no failed handoffs', async (t) => {
  const limit = new FailureLimit({ failures: 3, window: 30_000, pause: 30_000 })
  limit.failed(0, 'handoff')
  limit.failed(1, 'relay')
  limit.succeeded('relay')
  limit.failed(2, 'relay')
  t.equal(limit.retryAfter(2), 0, 'one of three is forgotten')
  limit.failed(3, 'relay')
  t.equal(limit.retryAfter(3), 30_000)
  limit.succeeded('relay')
  t.equal(limit.retryAfter(3), 30_000, 'a handoff is among those that led to the pause')
  limit.succeeded('handoff')
  t.equal(limit.retryAfter(3), 0)
  for (let at = 4; at < 7; at++) limit.failed(at, 'relay')
  t.equal(limit.retryAfter(7), 29_999)
  limit.succeeded('relay')
  t.equal(limit.retryAfter(7), 0, 'relays alone led to it')
})

void t.test(
  'a backend is unresponsive after three unanswered probes or a missed deadline, until it answers a later one',
  async (t) => {
    const heartbeat = new Heartbeat(0)
    const ids = [1000, 2000, 3000].map((now) => heartbeat.next(now, 1000))
    t.same(ids, [1, 2, 3])
    t.notOk(heartbeat.unresponsive)
    t.equal(heartbeat.next(4000, 1000), 4)
    t.ok(heartbeat.unresponsive)
    t.notOk(heartbeat.answered(3), 'sent before the trouble: an answer that was on its way proves nothing')
    t.ok(heartbeat.unresponsive)
    t.ok(heartbeat.answered(4))
    t.notOk(heartbeat.unresponsive)
    t.notOk(heartbeat.answered(99), 'an id that was never sent')

    heartbeat.missed()
    t.ok(heartbeat.unresponsive)
    t.notOk(heartbeat.answered(4))
    const probe = heartbeat.probe(4100)
    t.equal(heartbeat.next(4200, 1000), undefined, 'one was just sent')
    t.ok(heartbeat.answered(probe))
    t.notOk(heartbeat.unresponsive)
  },
)
