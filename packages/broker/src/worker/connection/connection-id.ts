import { randomFillSync } from 'node:crypto'

const TIME_BYTES = 6
const BYTES = 16

/** Random bytes for 256 ids are drawn at once: one call of the CSPRNG costs more than an id. */
const pool = Buffer.allocUnsafeSlow(BYTES * 256)
let used = pool.length

/**
 * A ULID as 16 bytes (https://github.com/ulid/spec): 48 bits of milliseconds, then 80 random bits. Most ids are only sent to
 * a backend, so the 26 characters are made on demand (`ulidFromBytes`).
 *
 * @param now Unix time in milliseconds
 */
export function createConnectionId(now: number): Buffer {
  if (used === pool.length) {
    randomFillSync(pool)
    used = 0
  }
  const id = Buffer.allocUnsafe(BYTES)
  id.writeUIntBE(now, 0, TIME_BYTES)
  pool.copy(id, TIME_BYTES, used + TIME_BYTES, used + BYTES)
  used += BYTES
  return id
}
