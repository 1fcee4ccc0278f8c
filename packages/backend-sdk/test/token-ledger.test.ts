import { randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import t from 'tap'
import type { Offer } from '../src/protocol/index.ts'
import { type Arrival, TokenLedger, type Verdict } from '../src/token-ledger.ts'

const TTL = 1000n

function offer(sequence: number, token: Buffer = randomBytes(16), deadline = TTL): Offer {
  return {
    sequence,
    token,
    connection: randomBytes(16),
    deadline,
    kind: 'descriptor',
    listener: 'web',
    meta: undefined,
    resumed: undefined,
  }
}

function arrival(bytes: Buffer, fds: number[] = [7], controlTruncated = false): Arrival {
  return { bytes, length: bytes.length, fds, controlTruncated }
}

function reasonOf(verdict: Verdict | undefined): string {
  if (verdict === undefined) return 'parked'
  return verdict.kind === 'accept' ? 'accept' : verdict.reason
}

void t.test('a descriptor is accepted if its token matches an offer, whichever is read first', async (t) => {
  const ledger = new TokenLedger(TTL)
  const first = offer(1)
  const second = offer(2)
  t.equal(ledger.offered(first, 0n), undefined)
  t.equal(ledger.waiting, 1)
  t.same(ledger.arrived(arrival(first.token, [11]), 1n), { kind: 'accept', offer: first, fd: 11 })
  t.equal(ledger.waiting, 0)

  t.equal(ledger.arrived(arrival(second.token, [12]), 2n), undefined, 'its OFFER is unread: parked')
  t.equal(ledger.parked, 1)
  t.same(ledger.offered(second, 3n), { kind: 'accept', offer: second, fd: 12 })
  t.equal(ledger.parked, 0)
})

void t.test('a wrong token is refused at tokenTtl, and the pending token stays intact', async (t) => {
  const ledger = new TokenLedger(TTL)
  const honest = offer(1)
  const wrong = randomBytes(16)
  ledger.offered(honest, 0n)
  t.equal(reasonOf(ledger.arrived(arrival(wrong, [8]), 1n)), 'parked')
  t.same(ledger.expire(TTL), [], 'not before its time')
  t.equal(
    reasonOf(ledger.arrived(arrival(honest.token), TTL - 1n)),
    'accept',
    'the pending token was not consumed',
  )

  const robbed = offer(2, undefined, 2n * TTL)
  ledger.offered(robbed, TTL)
  const [first, ...others] = ledger.expire(1n + TTL)
  t.match(
    first,
    { sequence: 0, reason: 'TokenNotPending', token: wrong, fds: [8] },
    'no offer waited all that time',
  )
  t.equal(others.length, 0)

  ledger.arrived(arrival(wrong, [9]), TTL + 2n)
  t.match(
    ledger.expire(2n * TTL + 2n),
    [{ reason: 'TokenMismatch', fds: [9] }],
    'an offer next to it expired',
  )
})

void t.test('a token works once; a replay is refused at once', async (t) => {
  const ledger = new TokenLedger(TTL)
  const once = offer(1)
  ledger.offered(once, 0n)
  t.equal(reasonOf(ledger.arrived(arrival(once.token), 1n)), 'accept')
  t.equal(reasonOf(ledger.arrived(arrival(once.token, [8]), 2n)), 'TokenNotPending')
  t.equal(ledger.offered({ ...once, sequence: 2 }, 3n), undefined)
  t.equal(ledger.waiting, 0, 'an offer with a spent token waits for nothing')
})

void t.test('a token expires, and expiry is told apart from mismatch', async (t) => {
  const ledger = new TokenLedger(TTL)
  const late = offer(1)
  ledger.offered(late, 0n)
  ledger.expire(TTL + 1n)
  t.match(ledger.arrived(arrival(late.token, [8]), TTL + 1n), {
    reason: 'TokenExpired',
    sequence: 1,
    fds: [8],
  })

  const never = offer(2)
  ledger.offered(never, 0n)
  ledger.expire(2n * TTL)
  t.equal(ledger.waiting, 0, 'dropped without a word in the end')
})

void t.test('a token of wrong length and a missing one have their own errors', async (t) => {
  const ledger = new TokenLedger(TTL)
  for (const length of [1, 15, 17]) {
    const verdict = ledger.arrived(arrival(randomBytes(length), [8]), 0n)
    t.match(verdict, { reason: 'TokenInvalidLength', sequence: 0, fds: [8] }, `${length} bytes`)
    t.equal(verdict?.kind === 'refuse' && verdict.token.length, 16)
  }
  t.match(ledger.arrived(arrival(Buffer.alloc(0), [8]), 0n), { reason: 'TokenMissing', fds: [8] })
})

void t.test(
  'no descriptor, two of them, or a truncated control message: ControlTruncated, all closed',
  async (t) => {
    const ledger = new TokenLedger(TTL)
    for (const [fds, truncated] of [
      [[], true],
      [[], false],
      [[8, 9], false],
      [[8], true],
    ] as const) {
      const known = offer(ledger.waiting + 1)
      ledger.offered(known, 0n)
      const verdict = ledger.arrived(arrival(known.token, [...fds], truncated), 1n)
      t.match(verdict, { kind: 'refuse', reason: 'ControlTruncated', sequence: known.sequence, fds })
      t.equal(ledger.waiting, 0, 'the offer is answered')

      const early = offer(99)
      t.match(ledger.arrived(arrival(early.token, [...fds], truncated), 1n), {
        reason: 'ControlTruncated',
        sequence: 0,
      })
      t.equal(ledger.offered(early, 2n), undefined)
      t.equal(ledger.waiting, 0, 'an OFFER that is read after its refusal waits for nothing')
    }
  },
)

void t.test('REVOKE: the offer is forgotten, and later descriptors still match their offers', async (t) => {
  const ledger = new TokenLedger(TTL)
  const [first, second] = [offer(1), offer(2)]
  ledger.offered(first, 0n)
  ledger.offered(second, 0n)
  ledger.revoked([1, 77])
  t.equal(ledger.waiting, 1)
  t.equal(reasonOf(ledger.arrived(arrival(second.token), 1n)), 'accept')
})

void t.test('the number of parked descriptors is limited', async (t) => {
  const ledger = new TokenLedger(TTL)
  const reasons = Array.from({ length: 600 }, (_, fd) =>
    reasonOf(ledger.arrived(arrival(randomBytes(16), [fd]), 0n)),
  )
  t.equal(ledger.parked, reasons.filter((reason) => reason === 'parked').length)
  t.ok(ledger.parked < 600)
  t.equal(ledger.end().length + reasons.filter((reason) => reason === 'TokenNotPending').length, 600)
})

void t.test(
  'every descriptor that arrives gets exactly one verdict, and no token is accepted twice',
  async (t) => {
    type Step = { do: 'offer' | 'arrive' | 'revoke'; token: number; fds: number } | { do: 'time'; by: number }
    const step: fc.Arbitrary<Step> = fc.oneof(
      fc.record({
        do: fc.constantFrom('offer' as const, 'arrive' as const, 'revoke' as const),
        token: fc.nat(7),
        fds: fc.constantFrom(1, 1, 1, 1, 0, 2),
      }),
      fc.record({ do: fc.constant('time' as const), by: fc.nat(800) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const tokens = Array.from({ length: 8 }, (_, index) => Buffer.alloc(16, index + 1))
        const ledger = new TokenLedger(TTL)
        const given: number[] = []
        const out: number[] = []
        const accepted: string[] = []
        let now = 0n
        let sequence = 0
        let nextFd = 100
        const take = (verdict: Verdict | undefined) => {
          if (verdict === undefined) return
          if (verdict.kind === 'refuse') {
            out.push(...verdict.fds)
            return
          }
          out.push(verdict.fd)
          accepted.push(verdict.offer.token.toString('hex'))
          if (verdict.offer.deadline < now) throw new Error('accepted after its deadline')
        }
        for (const each of steps) {
          if (each.do === 'time') {
            now += BigInt(each.by)
            ledger.expire(now).forEach(take)
            continue
          }
          const token = tokens[each.token] as Buffer
          if (each.do === 'offer') take(ledger.offered(offer(++sequence, token, now + TTL), now))
          else if (each.do === 'revoke') ledger.revoked([each.token])
          else {
            const fds = Array.from({ length: each.fds }, () => nextFd++)
            given.push(...fds)
            take(ledger.arrived(arrival(token, fds), now))
          }
        }
        ledger.end().forEach(take)
        t.same(
          out.toSorted((a, b) => a - b),
          given,
        )
        // A forgotten token may be offered again; while it is remembered, it must not be accepted twice.
        return accepted.length <= sequence
      }),
      { numRuns: 300 },
    )
  },
)
