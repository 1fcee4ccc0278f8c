import type { HandBack } from '@baton/backend-sdk/protocol'
import t from 'tap'
import type { BackendLink } from '../src/worker/backend/backend-link.ts'
import { blockOf, heldState } from '../src/worker/copies/held-state.ts'
import { mayTake, Resuming } from '../src/worker/resume/resuming.ts'

const GIVER = '01JCXW0000BACKEND000000001'

/** A link, as far as connections with state are concerned. */
const link = (ulid: string, schemas: string[], state = 'ready'): BackendLink =>
  ({
    identity: { ulid },
    eligibility: { state },
    resumes: (schema: string) => schemas.includes(schema),
    mayResume: (schema: string) => schemas.includes(schema),
  }) as unknown as BackendLink

const entry = (over: Partial<HandBack> = {}): HandBack => ({
  sequence: 1,
  token: Buffer.alloc(16),
  connection: Buffer.alloc(16),
  kind: 'raw',
  keepAlive: 0,
  listener: 'web',
  meta: undefined,
  schema: 'chat/1',
  prefix: Buffer.from('half'),
  requestHead: Buffer.from('GET / HTTP/1.1\r\n\r\n'),
  answerHead: Buffer.from('HTTP/1.1 101 \r\n\r\n'),
  state: Buffer.from('{"room":7}'),
  ...over,
})
const SIZE = 6 + 4 + 18 + 17 + 10

void t.test('taken only while another ready backend resumes the schema', async (t) => {
  const refusal = (...links: BackendLink[]) =>
    new Resuming(new Map(links.map((each, index) => [String(index), each]))).refusal(entry(), GIVER, 0)
  t.equal(refusal(), 'NoTaker')
  t.equal(refusal(link(GIVER, ['chat/1'])), 'NoTaker', 'its giver, under whichever registration')
  t.equal(refusal(link('other', ['chat/2'])), 'NoTaker')
  for (const state of ['draining', 'unresponsive', 'paused', 'unhealthy'])
    t.equal(refusal(link('other', ['chat/1'], state)), 'NoTaker', state)
  t.equal(refusal(link(GIVER, ['chat/1']), link('other', ['chat/2', 'chat/1'])), undefined)
})

void t.test('the state that is kept is limited, and given free with each outcome', async (t) => {
  const resuming = new Resuming(new Map([['web-1', link('other', ['chat/1'])]]), 2 * SIZE)
  const refusal = (before: number) => resuming.refusal(entry(), GIVER, before)
  const told: string[] = []
  const keep = () => resuming.keep({ ...entry(), kind: 'raw' }, GIVER, (outcome) => told.push(outcome))
  t.equal(refusal(SIZE), undefined)
  t.equal(refusal(SIZE + 1), 'TooMany', 'those of the same HANDBACK count')
  const first = keep()
  t.equal(resuming.bytes, SIZE)
  t.equal(refusal(0), undefined)
  keep()
  t.equal(refusal(0), 'TooMany')
  first.settled('resumed')
  t.equal(refusal(0), undefined)
  t.same(told, ['resumed'])
})

void t.test('a client without state may go to any backend', async (t) => {
  t.ok(mayTake(link('other', []), {}))
})

void t.test('state goes from worker to worker as it is, any byte', async (t) => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index))
  const block = {
    kind: 'replay' as const,
    schema: 'chät/1',
    prefix: bytes,
    requestHead: bytes,
    answerHead: Buffer.alloc(0),
    state: bytes,
  }
  const sent = heldState({ block, giver: GIVER, settled: () => {} }, { service: 'web', protocol: 'http' })
  t.match(sent, { service: 'web', protocol: 'http', giver: GIVER })
  t.same(blockOf(JSON.parse(JSON.stringify(sent)) as typeof sent), block)
})
