import { randomFillSync } from 'node:crypto'

export const TOKEN_BYTES = 16

/** Tokens are drawn 256 at a time from the system's CSPRNG: one call costs more than a token. */
const BATCH = 256

let batch = Buffer.alloc(0)
let used = 0

/** A one-time token. Never logged, never shown: it proves that a descriptor and an offer belong together. */
export function createToken(): Buffer {
  if (used === batch.length) {
    batch = randomFillSync(Buffer.allocUnsafeSlow(TOKEN_BYTES * BATCH))
    used = 0
  }
  used += TOKEN_BYTES
  return batch.subarray(used - TOKEN_BYTES, used)
}
