import * as fc from 'fast-check'
import t from 'tap'
import { encodeProxyHeader } from '@baton/backend-sdk/protocol'
import { crc32c } from '../src/worker/route/parse/crc32c.ts'
import {
  MAX_INCOMING_HEADER,
  type ProxyReading,
  readProxyHeader,
} from '../src/worker/route/parse/proxy-header.ts'

// The header with which a load balancer names its client, as HAProxy, nginx and curl write it.

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')

function binary(command: number, family: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const fixed = Buffer.from([command, family, body.length >> 8, body.length & 255])
  return Buffer.concat([SIGNATURE, fixed, body])
}

function tlv(type: number, value: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 255]), value])
}

/** With its checksum as the first TLV, which is where HAProxy has it. */
function checked(family: number, addresses: Buffer, ...tlvs: Buffer[]): Buffer {
  const header = binary(0x21, family, addresses, tlv(3, Buffer.alloc(4)), ...tlvs)
  header.writeUInt32BE(crc32c(header), 16 + addresses.length + 3)
  return header
}

const read = (header: Buffer | string): ProxyReading =>
  readProxyHeader(typeof header === 'string' ? Buffer.from(header, 'latin1') : header)

const v4 = (address: string, port: number) => ({ family: 'IPv4', address, port })
const v6 = (address: string, port: number) => ({ family: 'IPv6', address, port })
const found = (length: number, source?: object, destination?: object) => ({
  state: 'found',
  header: { length, addresses: source === undefined ? undefined : { source, destination } },
})

const IPV4 = Buffer.from([192, 0, 2, 1, 198, 51, 100, 7, 0x30, 0x39, 1, 0xbb])
const IPV6 = Buffer.from('20010db8000000000000000000000001' + '0'.repeat(31) + '1' + '303901bb', 'hex')

const SOUND: readonly [what: string, header: Buffer, reading: object][] = [
  [
    'version 1 over IPv4',
    Buffer.from('PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n'),
    found(45, v4('192.0.2.1', 12_345), v4('198.51.100.7', 443)),
  ],
  [
    'version 1 over IPv6',
    Buffer.from('PROXY TCP6 2001:DB8:0::1 ::ffff:192.0.2.1 1 65535\r\n'),
    found(51, v6('2001:db8::1', 1), v6('::ffff:192.0.2.1', 65_535)),
  ],
  ['version 1 without addresses', Buffer.from('PROXY UNKNOWN\r\n'), found(15)],
  ['what follows UNKNOWN is ignored', Buffer.from('PROXY UNKNOWN ::1 x\r\n'), found(21)],
  [
    'version 2 over IPv4',
    binary(0x21, 0x11, IPV4),
    found(28, v4('192.0.2.1', 12_345), v4('198.51.100.7', 443)),
  ],
  ['version 2 over IPv6', binary(0x21, 0x21, IPV6), found(52, v6('2001:db8::1', 12_345), v6('::1', 443))],
  [
    'TLVs in the order of HAProxy: checksum, ALPN, name, an empty id',
    checked(0x11, IPV4, tlv(1, Buffer.from('h2')), tlv(2, Buffer.from('a.example')), tlv(5, Buffer.alloc(0))),
    found(28 + 7 + 5 + 12 + 3, v4('192.0.2.1', 12_345), v4('198.51.100.7', 443)),
  ],
  [
    'a client of a Unix socket',
    binary(
      0x21,
      0x31,
      Buffer.concat([Buffer.from('/run/a'), Buffer.alloc(102), Buffer.from('\0b'), Buffer.alloc(106)]),
    ),
    found(232, { family: 'unix', address: '/run/a', port: 0 }, { family: 'unix', address: '\0b', port: 0 }),
  ],
  ['LOCAL: the connection is the sender’s own', binary(0x20, 0x00), found(16)],
  ['what follows LOCAL is skipped', binary(0x20, 0x11, Buffer.from([1])), found(17)],
  ['no family', binary(0x21, 0x00, tlv(4, Buffer.alloc(3))), found(22)],
  ['an unknown family', binary(0x21, 0x51, Buffer.alloc(5)), found(21)],
  [
    'the header that this broker itself writes',
    encodeProxyHeader({
      addresses: {
        family: 'IPv4',
        source: '192.0.2.1',
        sourcePort: 1,
        destination: '192.0.2.2',
        destinationPort: 2,
      },
      token: Buffer.alloc(16),
    }),
    found(47, v4('192.0.2.1', 1), v4('192.0.2.2', 2)),
  ],
]

void t.test('the client is found in a header of either version', async (t) => {
  for (const [what, header, reading] of SOUND) t.same(read(header), reading, what)
})

void t.test('only the header counts, in whatever pieces it arrives', async (t) => {
  for (const [what, header, reading] of SOUND) {
    t.same(
      read(Buffer.concat([header, Buffer.from('GET / HTTP/1.1\r\n')])),
      reading,
      `${what}: data behind it`,
    )
    for (let length = 0; length < header.length; length++) {
      const early = read(header.subarray(0, length))
      if (early.state !== 'more' || early.bytes <= length || early.bytes > header.length)
        t.fail(`${what}: ${length} bytes are ${JSON.stringify(early)}`)
    }
  }
})

void t.test('what begins otherwise is no header', async (t) => {
  for (const text of [
    'GET / HTTP/1.1\r\n\r\n',
    'PROXX',
    'P\r\n',
    '\r\nGET / HTTP/1.1',
    '\x16\x03\x01',
    '\r\n\r\n\0\r\nQUIX',
  ])
    t.same(read(text), { state: 'none' }, JSON.stringify(text))
})

void t.test('what begins like a header and is none', async (t) => {
  const wrong = checked(0x11, IPV4)
  wrong[16] = 1
  const cases: readonly [what: string, header: Buffer | string][] = [
    ['an address that is none', 'PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n'],
    ['an address of the other family', 'PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n'],
    ['a zone', 'PROXY TCP6 fe80::1%1 ::1 1 2\r\n'],
    ['a port that is none', 'PROXY TCP4 192.0.2.1 192.0.2.1 65536 2\r\n'],
    ['a port with a zero before it', 'PROXY TCP4 192.0.2.1 192.0.2.1 01 2\r\n'],
    ['too few words', 'PROXY TCP4 192.0.2.1 192.0.2.1 1\r\n'],
    ['too many', 'PROXY TCP4 192.0.2.1 192.0.2.1 1 2 3\r\n'],
    ['two blanks', 'PROXY TCP4  192.0.2.1 192.0.2.1 1 2\r\n'],
    ['another protocol', 'PROXY UDP4 192.0.2.1 192.0.2.1 1 2\r\n'],
    ['a bare line feed', 'PROXY TCP4 192.0.2.1 192.0.2.1 1 2\n'],
    ['no end within 107 bytes', `PROXY UNKNOWN${' '.repeat(100)}\r\n`],
    ['version 3', binary(0x31, 0x11, IPV4)],
    ['another command', binary(0x22, 0x11, IPV4)],
    ['addresses cut short', binary(0x21, 0x11, IPV4.subarray(1))],
    ['a TLV cut short', binary(0x21, 0x11, IPV4, Buffer.from([1, 0]))],
    ['a TLV that is longer than the header', binary(0x21, 0x11, IPV4, Buffer.from([1, 0, 9]))],
    ['a wrong checksum', wrong],
    ['a header over 16 KiB', binary(0x20, 0x00, Buffer.alloc(MAX_INCOMING_HEADER))],
  ]
  for (const [what, header] of cases) t.same(read(header), { state: 'malformed' }, what)
})

void t.test('the checksum is CRC-32C', async (t) => {
  // Test vectors of RFC 3720, appendix B.4.
  t.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa)
  t.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43)
})

void t.test('arbitrary headers are read without an exception, and alike in pieces', async (t) => {
  const body = fc.uint8Array({ maxLength: 80 })
  fc.assert(
    fc.property(
      fc.constantFrom(0x20, 0x21),
      fc.constantFrom(0, 0x11, 0x21, 0x31, 0x42),
      body,
      (command, family, bytes) => {
        const header = binary(command, family, Buffer.from(bytes))
        const whole = read(header)
        if (whole.state === 'found' && whole.header.length !== header.length) return false
        return read(header.subarray(0, -1)).state === 'more'
      },
    ),
  )
  fc.assert(
    fc.property(fc.ipV4(), fc.ipV6(), fc.nat(65_535), (four, six, port) => {
      const text = (kind: string, address: string) =>
        read(`PROXY ${kind} ${address} ${address} ${port} ${port}\r\n`)
      return text('TCP4', four).state === 'found' && text('TCP6', six).state === 'found'
    }),
  )
  t.pass()
})
