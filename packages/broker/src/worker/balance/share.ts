import { createHash } from 'node:crypto'
import { type Shift, WHOLE } from '../../api/shift.ts'
import type { ShiftSide } from '../../metrics/labels.ts'

/**
 * The side of a shift on which a client is: a hash puts each key at a point from 0 to 9999, and those below the share are moved. So a key stays
 * where it is while the share does, and when the share grows, only keys between the old and the new one move. Service and version are hashed too:
 * the clients that try one version are not those that try the next, or a version of another service.
 *
 * Pure. @param key of the client: its address, or its cookie
 */
export function sideOf(key: string, service: string, { to, share }: Pick<Shift, 'to' | 'share'>): ShiftSide {
  return pointOf(key, service, to) < share ? 'to' : 'others'
}

/** 48 bits of SHA-1: a cheaper hash, whose bits are not independent, would not keep the share. */
function pointOf(key: string, service: string, version: string): number {
  const hash = createHash('sha1').update(service).update('\0').update(version).update('\0').update(key)
  return hash.digest().readUIntBE(0, 6) % WHOLE
}
