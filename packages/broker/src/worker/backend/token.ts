import { randomFillSync } from 'node:crypto'
import { TOKEN_LENGTH } from '@baton/backend-sdk/protocol'

/** Tokens per call of the system's CSPRNG: a call costs more than a token. */
const BATCH = 256

let batch = Buffer.alloc(0)
let used = 0

/** A one-time token, which proves that a descriptor and an offer belong together. Never logged or shown. */
export function createToken(): Buffer {
  if (used === batch.length) {
    batch = randomFillSync(Buffer.allocUnsafeSlow(TOKEN_LENGTH * BATCH))
    used = 0
  }
  used += TOKEN_LENGTH
  return batch.subarray(used - TOKEN_LENGTH, used)
}
