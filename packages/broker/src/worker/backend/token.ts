import { randomFillSync } from 'node:crypto'
import { TOKEN_LENGTH } from '@baton/backend-sdk/protocol'

/** Tokens are drawn 256 at a time from the system's CSPRNG: one call costs more than a token. */
const BATCH = 256

let batch = Buffer.alloc(0)
let used = 0

/** A one-time token. Never logged, never shown: it proves that a descriptor and an offer belong together. */
export function createToken(): Buffer {
  if (used === batch.length) {
    batch = randomFillSync(Buffer.allocUnsafeSlow(TOKEN_LENGTH * BATCH))
    used = 0
  }
  used += TOKEN_LENGTH
  return batch.subarray(used - TOKEN_LENGTH, used)
}
