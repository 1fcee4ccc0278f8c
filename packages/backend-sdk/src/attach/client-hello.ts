const RECORD_HEADER = 5
const HANDSHAKE_HEADER = 4
const HANDSHAKE_RECORD = 22

/** Most bytes of a first message to wait for; that of a browser has two thousand. */
const MAX_BYTES = 16_384

/**
 * Whether `bytes`, the first of a TLS connection, hold the whole ClientHello. Also true if they never will: what is not TLS, or too long,
 * is for the server to answer.
 */
export function isWholeHello(bytes: Buffer): boolean {
  if (bytes.length >= MAX_BYTES) return true
  let wanted: number | undefined
  let had = 0
  for (let at = 0; ;) {
    const header = bytes.subarray(at, at + RECORD_HEADER)
    if (header.length > 0 && header[0] !== HANDSHAKE_RECORD) return true
    if (header.length < RECORD_HEADER) return false
    const body = bytes.subarray(at + RECORD_HEADER, at + RECORD_HEADER + header.readUInt16BE(3))
    if (wanted === undefined && body.length >= HANDSHAKE_HEADER)
      wanted = HANDSHAKE_HEADER + body.readUIntBE(1, 3)
    had += body.length
    if (wanted !== undefined && had >= wanted) return true
    at += RECORD_HEADER + header.readUInt16BE(3)
    if (bytes.length < at) return false
    // A record that ends before the length of the message: no client sends that.
    if (wanted === undefined) return true
  }
}
