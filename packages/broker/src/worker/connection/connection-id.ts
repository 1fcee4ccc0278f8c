import { randomFillSync } from 'node:crypto'

const TIME_BYTES = 6
const BYTES = 16

/** Random bytes are drawn for many ids at once: one call of the CSPRNG costs more than an id. */
const pool = Buffer.allocUnsafeSlow(BYTES * 256)
let used = pool.length

/**
 * A ULID in its 16 bytes (https://github.com/ulid/spec): 48 bits of milliseconds, then 80 random bits. Most ids are
 * only ever sent to a backend, so their 26 characters are made when somebody looks (`ulidFromBytes`).
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
