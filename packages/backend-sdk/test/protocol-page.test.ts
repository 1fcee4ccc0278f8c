import { deepStrictEqual } from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  encodeFrame,
  encodeProxyHeader,
  type Frame,
  FrameDecoder,
  FrameType,
  GIVEN_BACK_REASONS,
  HANDBACK_KINDS,
  MAX_HANDBACK_BYTES,
  NACK_REASONS,
  OFFER_KINDS,
  POST_WELCOME_LIMIT,
  PRE_WELCOME_LIMIT,
  SETTLED_OUTCOMES,
  ulidToBytes,
} from '../src/protocol/index.ts'

const page = readFileSync(new URL('../../../docs/reference/protocol.md', import.meta.url), 'utf8')
const errors = readFileSync(new URL('../src/protocol/errors.ts', import.meta.url), 'utf8')

/** The cells of each table row whose first cell matches `first`. */
const rows = (first: RegExp): string[][] =>
  page
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
    .filter(([cell]) => first.test(cell ?? ''))

/** Code and name in each row of the table with this head. */
const coded = (head: string): [number, string | undefined][] => {
  const [, table = ''] = page.split(`\n${head}\n`)
  return table
    .split('\n\n', 1)[0]!
    .split('\n')
    .slice(1)
    .map((row) => row.split('|').map((cell) => cell.trim()))
    .map(([, code, name]) => [Number(code), name])
}

const token = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
const empty = Buffer.alloc(0)
const connection = ulidToBytes('01JCXW8Z3N5T7V9XBDFHKMPRSA')

const example: Frame[] = [
  {
    type: 'hello',
    protocol: 1,
    capabilities: ['handback/1'],
    service: 'web',
    version: '1.2.0',
    weight: 1,
    pid: 4242,
    backend: null,
    sdk: 'example/1',
    secret: null,
    reconnect: null,
    draining: null,
  },
  {
    type: 'welcome',
    protocol: 1,
    capabilities: ['handback/1'],
    broker: '01JCXW0000BR0KER0000000001',
    backend: '01JCXW0000BACKEND000000001',
    slot: 'web-1',
    service: 'web',
    heartbeatInterval: 1000,
    tokenTtl: 5000,
    ackDeadline: 500,
    handBackWindow: 64,
    parkAfter: null,
  },
  { type: 'stats', adopted: 0, closed: 0, lag: 0 },
  {
    type: 'offer',
    offers: [
      {
        sequence: 1,
        token,
        connection,
        deadline: 86_405_000_000_000n,
        kind: 'descriptor',
        listener: 'web',
        meta: { a: 1 },
        resumed: undefined,
      },
    ],
  },
  { type: 'ack', acks: [{ sequence: 1, connection }] },
  {
    type: 'handback',
    entries: [
      {
        sequence: 1,
        token: Buffer.from('ffeeddccbbaa99887766554433221100', 'hex'),
        connection,
        kind: 'idle',
        keepAlive: 4000,
        listener: 'web',
        meta: { a: 1 },
        schema: '',
        prefix: empty,
        requestHead: empty,
        answerHead: empty,
        state: empty,
      },
    ],
  },
  { type: 'taken', sequences: [1] },
  { type: 'settled', entries: [{ sequence: 1, outcome: 'parked' }] },
  { type: 'given_back', entries: [{ sequence: 2, reason: 'Stopping' }] },
  { type: 'nack', nacks: [{ sequence: 0, reason: 'TokenNotPending', token }] },
  { type: 'revoke', sequences: [2, 3] },
  { type: 'heartbeat', id: 7, reply: false },
  { type: 'heartbeat', id: 7, reply: true },
  {
    type: 'refused',
    code: 'UnknownService',
    message: 'no service "wbe" here',
    retry: false,
    retryAfter: null,
  },
  { type: 'reconnect', reason: 'reload' },
  { type: 'drain', deadline: 30_000, reason: 'requested by the operator' },
  { type: 'drained' },
  { type: 'rebalance', count: 10 },
  { type: 'resumes', schemas: ['chat/1'] },
  { type: 'ticket_keys', keys: [Buffer.from([...Array(48).keys()]).toString('base64')] },
  {
    type: 'offer',
    offers: [
      {
        sequence: 4,
        token,
        connection,
        deadline: 86_405_000_000_000n,
        kind: 'resumed',
        listener: 'web',
        meta: undefined,
        resumed: {
          kind: 'replay',
          schema: 'chat/1',
          prefix: Buffer.from('81850000000068656c6c6f', 'hex'),
          requestHead: Buffer.from('GET / HTTP/1.1\r\n\r\n'),
          answerHead: Buffer.from('HTTP/1.1 101 \r\n\r\n'),
          state: Buffer.from('{"room":7}'),
        },
      },
    ],
  },
]

void t.test('the worked example matches the encoder and the decoder', async (t) => {
  const blocks = [...page.matchAll(/^```hex\n(.*?)^```$/gms)].map(([, lines]) =>
    Buffer.from((lines ?? '').replaceAll(/ {2,}.*$/gm, '').replaceAll(/\s/g, ''), 'hex'),
  )
  t.equal(blocks.length, example.length)
  for (const [index, frame] of example.entries()) {
    t.equal(blocks[index]?.toString('hex'), encodeFrame(frame).toString('hex'), frame.type)
  }
  const decoded = new FrameDecoder({ limit: POST_WELCOME_LIMIT }).push(Buffer.concat(blocks))
  t.same(
    decoded.map((frame) => frame.type),
    example.map((frame) => frame.type),
  )
  deepStrictEqual(Buffer.concat(decoded.map(encodeFrame)), Buffer.concat(blocks))
})

void t.test('the header of the worked relay matches the encoder', async (t) => {
  const [, lines = ''] = /^```proxy\n(.*?)^```$/ms.exec(page) ?? []
  const addresses = {
    family: 'IPv4' as const,
    source: '192.0.2.7',
    sourcePort: 40_000,
    destination: '198.51.100.1',
    destinationPort: 443,
  }
  t.equal(
    lines.replaceAll(/ {2,}.*$/gm, '').replaceAll(/\s/g, ''),
    encodeProxyHeader({ addresses, token }).toString('hex'),
  )
})

void t.test('its tables list each frame type, reason, outcome and error code, and no other', async (t) => {
  t.same(
    rows(/^0x[0-9a-f]{2}$/).map(([code, name]) => [Number(code), name]),
    Object.entries(FrameType).map(([name, code]) => [code, name]),
  )
  for (const [head, names] of [
    ['| reason | name | when |', NACK_REASONS],
    ['| reason | name | why |', GIVEN_BACK_REASONS],
    ['| outcome | name | meaning |', SETTLED_OUTCOMES],
  ] as const)
    t.same(
      coded(head),
      names.map((name, index) => [index + 1, name]),
      head,
    )
  t.match(
    page,
    `kind: ${HANDBACK_KINDS.map((kind, index) => `${index + 1} \`${kind}\``).join(', ')}`,
    'kinds of HANDBACK',
  )
  t.match(
    page,
    `kind: ${OFFER_KINDS.map((kind, index) => `${index + 1} \`${kind}\``).join(', ')}`,
    'kinds of OFFER',
  )
  t.same(
    new Set(rows(/^`BATON_ERR_/).map(([code]) => code?.replaceAll('`', ''))),
    new Set(errors.match(/BATON_ERR_[A-Z_]+/g)),
  )
  for (const limit of [PRE_WELCOME_LIMIT, POST_WELCOME_LIMIT, MAX_HANDBACK_BYTES])
    t.match(page, limit.toLocaleString('en'))
})

void t.test('its tables list each member of HELLO, WELCOME and STATS', async (t) => {
  for (const [title, frame] of [
    ['HELLO', example[0]],
    ['WELCOME', example[1]],
    ['STATS', example[2]],
  ] as const) {
    const from = page.indexOf(`\n**${title}**\n`)
    const table = page.slice(from, page.indexOf('\n\n', page.indexOf('| --- |', from)))
    const members = [...table.matchAll(/^\| `(\w+)`/gm)].map(([, member]) => member)
    t.same(
      members,
      Object.keys(frame ?? {}).filter((key) => key !== 'type'),
      title,
    )
  }
})
