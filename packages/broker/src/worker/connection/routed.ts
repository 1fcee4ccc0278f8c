import { createHash } from 'node:crypto'

/** The choice that the first bytes of a connection have made, beside its service. */
export interface Routed {
  /** Only backends of this version may take it: its route says so. */
  readonly version?: string | undefined
  /** Tells its client from others, by a cookie: the digest of its value. */
  readonly sticky?: string | undefined
}

/** A cookie may be a secret, and long: 96 bits of its SHA-1 stand for it. */
export function digestOf(cookie: string): string {
  return createHash('sha1').update(cookie).digest('base64url').slice(0, 16)
}
