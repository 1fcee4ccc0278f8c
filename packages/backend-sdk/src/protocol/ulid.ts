/**
 * Conversion of ULIDs between text and 128 bits, most significant byte first: 48 bits of Unix milliseconds, then 80 random bits
 * (https://github.com/ulid/spec).
 */
import { InvalidUlidError } from './errors.ts'
import { ULID_LENGTH } from './frames.ts'

const ALPHABET = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
const TEXT_LENGTH = 26
// 26 characters hold 130 bits, so the first one may only be 0 to 7.
const CANONICAL = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/

const VALUE_OF = new Uint8Array(128)
for (let value = 0; value < ALPHABET.length; value++) VALUE_OF[ALPHABET.charCodeAt(value)] = value

/** Whether `text` is a ULID in canonical form: 26 characters, upper case. */
export function isUlid(text: string): boolean {
  return CANONICAL.test(text)
}

/**
 * The 16 bytes of a ULID. The caller owns the buffer.
 * @throws {InvalidUlidError} if `ulid` is not canonical, see {@link isUlid}
 */
export function ulidToBytes(ulid: string): Buffer {
  if (!isUlid(ulid))
    throw new InvalidUlidError('expected a ULID: 26 characters of upper-case base 32, the first from 0 to 7')
  const bytes = Buffer.allocUnsafeSlow(ULID_LENGTH)
  let pending = VALUE_OF[ulid.charCodeAt(0)] ?? 0
  let bits = 3
  let at = 0
  for (let index = 1; index < TEXT_LENGTH; index++) {
    pending = (pending << 5) | (VALUE_OF[ulid.charCodeAt(index)] ?? 0)
    bits += 5
    if (bits < 8) continue
    bits -= 8
    bytes[at++] = pending >>> bits
    pending &= (1 << bits) - 1
  }
  return bytes
}

/**
 * The canonical text of a ULID's 16 bytes.
 * @throws {InvalidUlidError} if `bytes` has another length
 */
export function ulidFromBytes(bytes: Uint8Array): string {
  checkLength(bytes)
  let text = ''
  let pending = 0
  // Two leading zero bits fill up the first character: 26 characters hold 130 bits.
  let bits = 2
  for (const byte of bytes) {
    pending = (pending << 8) | byte
    bits += 8
    while (bits >= 5) {
      bits -= 5
      text += ALPHABET[pending >>> bits]
      pending &= (1 << bits) - 1
    }
  }
  return text
}

/**
 * When the ULID was created, in milliseconds since the Unix epoch.
 * @throws {InvalidUlidError} if `bytes` has another length than 16
 */
export function ulidTime(bytes: Uint8Array): number {
  checkLength(bytes)
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).readUIntBE(0, 6)
}

function checkLength(bytes: Uint8Array): void {
  if (bytes.length !== ULID_LENGTH) {
    throw new InvalidUlidError(`expected the ${ULID_LENGTH} bytes of a ULID, got ${bytes.length}`)
  }
}
