import { randomBytes } from 'node:crypto'
import * as fc from 'fast-check'
import t from 'tap'
import { ProxyHeaderError } from '../src/protocol/errors.ts'
import { decodeProxyHeader, encodeProxyHeader, MAX_PROXY_HEADER_BYTES } from '../src/protocol/proxy-header.ts'

const addresses = {
  family: 'IPv4' as const,
  source: '192.0.2.7',
  sourcePort: 40_000,
  destination: '198.51.100.1',
  destinationPort: 443,
}

void t.test('the bytes match the specification', async (t) => {
  const token = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
  t.equal(
    encodeProxyHeader({ addresses, token }).toString('hex'),
    // signature, version 2 and PROXY, TCP over IPv4, length 31; addresses and ports; TLV 0xe0 of 16 bytes
    '0d0a0d0a000d0a515549540a2111001f' + 'c0000207c63364019c4001bb' + 'e00010' + token.toString('hex'),
  )
})

void t.test('every header is decoded, at any split, and the bytes after it are left alone', async (t) => {
  const header = fc.record({
    addresses: fc.option(
      fc.oneof(
        fc.record({
          family: fc.constant('IPv4' as const),
          source: fc.ipV4(),
          destination: fc.ipV4(),
          sourcePort: fc.nat(65_535),
          destinationPort: fc.nat(65_535),
        }),
        fc.record({
          family: fc.constant('IPv6' as const),
          source: fc.ipV6(),
          destination: fc.ipV6(),
          sourcePort: fc.nat(65_535),
          destinationPort: fc.nat(65_535),
        }),
      ),
      { nil: undefined },
    ),
    token: fc.option(fc.uint8Array({ minLength: 16, maxLength: 16 }), { nil: undefined }),
  })
  fc.assert(
    fc.property(header, fc.uint8Array({ maxLength: 40 }), ({ addresses, token }, rest) => {
      const whole = encodeProxyHeader({ addresses, token: token && Buffer.from(token) })
      const bytes = Buffer.concat([whole, rest])
      for (let cut = 0; cut < whole.length; cut++) {
        if (decodeProxyHeader(bytes.subarray(0, cut)) !== undefined) throw new Error(`whole at ${cut}`)
      }
      const decoded = decodeProxyHeader(bytes)
      if (decoded?.length !== whole.length) throw new Error('wrong length')
      // An address can be written in several ways, but encoding the decoded header must give the same bytes.
      t.ok(encodeProxyHeader(decoded.header).equals(whole))
    }),
    { numRuns: 200 },
  )
})

void t.test('IPv6 addresses are formatted as in Node', async (t) => {
  for (const source of [
    '::1',
    '2001:db8::1',
    '::',
    'fe80::1:0:0:1',
    '1:2:3:4:5:6:7:8',
    '::ffff:127.0.0.1',
    '1:0:2::',
  ]) {
    const header = {
      addresses: { ...addresses, family: 'IPv6' as const, source, destination: '::1' },
      token: undefined,
    }
    t.equal(decodeProxyHeader(encodeProxyHeader(header))?.header.addresses?.source, source)
  }
})

void t.test('bytes that cannot become a header are refused as early as possible', async (t) => {
  const refused = (bytes: Buffer, message: RegExp) =>
    t.throws(() => decodeProxyHeader(bytes), { name: 'ProxyHeaderError', message })
  refused(Buffer.from('G'), /signature/)
  refused(Buffer.from('GET / HTTP/1.1\r\n\r\n'), /signature/)
  const good = encodeProxyHeader({ addresses, token: randomBytes(16) })
  const bent = (at: number, value: number) => {
    const copy = Buffer.from(good)
    copy[at] = value
    return copy
  }
  refused(bent(12, 0x11), /version/)
  refused(bent(13, 0x31), /family 0x31/)
  refused(bent(14, 0xff), new RegExp(`at most ${MAX_PROXY_HEADER_BYTES}`))
  refused(bent(16 + 12 + 2, 0xff), /TLV is cut short/)
  refused(bent(15, 5), /addresses are cut short/)
})

void t.test('garbage: a typed error or nothing, never another error', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.boolean(), (noise, signed) => {
      const bytes = signed
        ? Buffer.concat([encodeProxyHeader({ addresses, token: undefined }).subarray(0, 12), noise])
        : Buffer.from(noise)
      try {
        decodeProxyHeader(bytes)
      } catch (error) {
        if (!(error instanceof ProxyHeaderError)) throw error
      }
      return true
    }),
    { numRuns: 2000 },
  )
  t.pass('no other error')
})
