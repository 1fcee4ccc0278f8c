/** Decodes OFFER, ACK, NACK and REVOKE. No result refers to the payload it was decoded from. */
import { isUtf8 } from 'node:buffer'
import {
  ACK_SIZE,
  COUNT_SIZE,
  META_LENGTH_SIZE,
  NACK_SIZE,
  OFFER_HEAD_SIZE,
  SEQUENCE_SIZE,
  U32_SPAN,
} from './batch-layout.ts'
import { ProtocolError } from './errors.ts'
import {
  type Ack,
  type Nack,
  NACK_REASONS,
  type Offer,
  OFFER_KINDS,
  TOKEN_LENGTH,
  ULID_LENGTH,
} from './frames.ts'
import { isJsonObject } from './json-members.ts'
import { sealToken } from './secrecy.ts'

/**
 * Tokens and ULIDs share allocations of this size, across frames. Separate allocations would cost more than the rest of decoding,
 * and a slice that is kept (the ULID of a connection that lives for days) pins only this much.
 */
const ARENA_BYTES = 512

/** Decodes an OFFER payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeOffers(payload: Buffer): Offer[] {
  const count = readCount('OFFER', payload)
  const offers: Offer[] = []
  let at = COUNT_SIZE
  let previous = 0
  for (let index = 0; index < count; index++) {
    need('OFFER', payload, at, OFFER_HEAD_SIZE)
    const sequence = readSequence('OFFER', payload, at, 1)
    if (sequence <= previous) throw malformed('OFFER', 'sequences do not increase')
    previous = sequence
    at += SEQUENCE_SIZE
    const token = sealToken(keep(payload, at, TOKEN_LENGTH))
    at += TOKEN_LENGTH
    const connection = keep(payload, at, ULID_LENGTH)
    at += ULID_LENGTH
    const deadline = payload.readBigUInt64LE(at)
    const kind = nameOf(OFFER_KINDS, payload.readUInt8(at + 8), 'OFFER', 'kind')
    const listenerSize = payload.readUInt8(at + 9)
    at += 10
    need('OFFER', payload, at, listenerSize + META_LENGTH_SIZE)
    const listener = readListener(payload, at, listenerSize)
    at += listenerSize
    const metaSize = payload.readUInt16LE(at)
    at += META_LENGTH_SIZE
    need('OFFER', payload, at, metaSize)
    const meta = metaSize === 0 ? undefined : parseMeta(readText('OFFER', 'meta', payload, at, metaSize))
    at += metaSize
    offers.push({ sequence, token, connection, deadline, kind, listener, meta })
  }
  if (at !== payload.length) throw malformed('OFFER', `${payload.length - at} bytes after the last entry`)
  return offers
}

/** Decodes an ACK payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeAcks(payload: Buffer): Ack[] {
  checkFixedSize('ACK', payload, ACK_SIZE)
  const acks: Ack[] = []
  for (let at = COUNT_SIZE; at < payload.length; at += ACK_SIZE) {
    acks.push({
      sequence: readSequence('ACK', payload, at, 1),
      connection: keep(payload, at + SEQUENCE_SIZE, ULID_LENGTH),
    })
  }
  return acks
}

/** Decodes a NACK payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeNacks(payload: Buffer): Nack[] {
  checkFixedSize('NACK', payload, NACK_SIZE)
  const nacks: Nack[] = []
  for (let at = COUNT_SIZE; at < payload.length; at += NACK_SIZE) {
    nacks.push({
      sequence: readSequence('NACK', payload, at, 0),
      reason: nameOf(NACK_REASONS, payload.readUInt8(at + SEQUENCE_SIZE), 'NACK', 'reason'),
      token: sealToken(keep(payload, at + SEQUENCE_SIZE + 1, TOKEN_LENGTH)),
    })
  }
  return nacks
}

/** Decodes a REVOKE payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeRevokes(payload: Buffer): number[] {
  checkFixedSize('REVOKE', payload, SEQUENCE_SIZE)
  const sequences: number[] = []
  for (let at = COUNT_SIZE; at < payload.length; at += SEQUENCE_SIZE) {
    sequences.push(readSequence('REVOKE', payload, at, 1))
  }
  return sequences
}

// Not from Buffer's shared pool: tokens would share memory with unrelated data, and pin the pool.
let arena = Buffer.allocUnsafeSlow(ARENA_BYTES)
let used = 0

/** Copies a small piece of a chunk that is about to be reused. */
function keep(source: Buffer, at: number, length: number): Buffer {
  if (used + length > arena.length) {
    arena = Buffer.allocUnsafeSlow(ARENA_BYTES)
    used = 0
  }
  source.copy(arena, used, at, at + length)
  used += length
  return arena.subarray(used - length, used)
}

function readCount(frame: string, payload: Buffer): number {
  need(frame, payload, 0, COUNT_SIZE)
  const count = payload.readUInt16LE(0)
  if (count === 0) throw malformed(frame, 'a batch has at least one entry')
  return count
}

function checkFixedSize(frame: string, payload: Buffer, entrySize: number): void {
  const wanted = COUNT_SIZE + readCount(frame, payload) * entrySize
  if (payload.length !== wanted)
    throw malformed(frame, `payload is ${payload.length} bytes, wanted ${wanted}`)
}

function readSequence(frame: string, payload: Buffer, at: number, least: number): number {
  const sequence = payload.readUInt32LE(at + 4) * U32_SPAN + payload.readUInt32LE(at)
  if (sequence > Number.MAX_SAFE_INTEGER) throw malformed(frame, 'sequence is over 2^53 - 1')
  if (sequence < least) throw malformed(frame, `sequence is under ${least}`)
  return sequence
}

function readText(frame: string, member: string, payload: Buffer, at: number, length: number): string {
  const text = payload.toString('utf8', at, at + length)
  // toString replaces invalid UTF-8 with U+FFFD, so a text without it needs no check.
  if (text.includes('\ufffd') && !isUtf8(payload.subarray(at, at + length))) {
    throw malformed(frame, `${member} is not UTF-8`)
  }
  return text
}

let lastName = ''
let lastBytes: Uint8Array = Buffer.alloc(0)

/** Decodes the name only if it differs from the previous offer's: a broker has few listeners. */
function readListener(payload: Buffer, at: number, length: number): string {
  let same = length === lastBytes.length
  for (let index = 0; same && index < length; index++) same = payload[at + index] === lastBytes[index]
  if (!same) {
    lastName = readText('OFFER', 'listener', payload, at, length)
    lastBytes = Uint8Array.prototype.slice.call(payload, at, at + length)
  }
  return lastName
}

function parseMeta(text: string): Record<string, unknown> {
  let meta: unknown
  try {
    meta = JSON.parse(text)
  } catch {
    throw malformed('OFFER', 'meta is not JSON')
  }
  if (!isJsonObject(meta)) throw malformed('OFFER', 'meta is not a JSON object')
  return meta
}

function nameOf<T>(names: readonly T[], code: number, frame: string, member: string): T {
  const name = names[code - 1]
  if (name === undefined) throw malformed(frame, `${member} ${code} is not known`)
  return name
}

function need(frame: string, payload: Buffer, at: number, size: number): void {
  if (payload.length - at < size) throw malformed(frame, 'payload ends inside an entry')
}

function malformed(frame: string, message: string): ProtocolError {
  return new ProtocolError('BATON_ERR_FRAME_MALFORMED', `${frame}: ${message}`)
}
