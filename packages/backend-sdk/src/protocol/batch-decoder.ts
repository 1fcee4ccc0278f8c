/** Decodes the batches. No result refers to the payload it was decoded from. */
import { isUtf8 } from 'node:buffer'
import {
  ACK_SIZE,
  COUNT_SIZE,
  HANDBACK_HEAD_SIZE,
  META_LENGTH_SIZE,
  NACK_SIZE,
  OFFER_HEAD_SIZE,
  SEQUENCE_SIZE,
  U32_SPAN,
  VERDICT_SIZE,
} from './batch-layout.ts'
import { ProtocolError } from './errors.ts'
import {
  type Ack,
  GIVEN_BACK_REASONS,
  type GivenBack,
  HANDBACK_KINDS,
  type HandBack,
  MAX_HANDBACK_BYTES,
  type Nack,
  NACK_REASONS,
  type Offer,
  OFFER_KINDS,
  type ResumedBlock,
  type Settled,
  SETTLED_OUTCOMES,
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

const NOTHING = Buffer.alloc(0)

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
    const listener = readListener('OFFER', payload, at, listenerSize)
    at += listenerSize
    const metaSize = payload.readUInt16LE(at)
    at += META_LENGTH_SIZE
    need('OFFER', payload, at, metaSize)
    const meta =
      metaSize === 0 ? undefined : parseMeta('OFFER', readText('OFFER', 'meta', payload, at, metaSize))
    at += metaSize
    let resumed: ResumedBlock | undefined
    if (kind === 'resumed') {
      const block = readResumed(payload, at)
      if (listenerSize + metaSize + block.size > MAX_HANDBACK_BYTES)
        throw malformed('OFFER', `an entry is over ${MAX_HANDBACK_BYTES} bytes`)
      resumed = block.resumed
      at = block.end
    }
    offers.push({ sequence, token, connection, deadline, kind, listener, meta, resumed })
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
  return decodeSequences('REVOKE', payload)
}

/** The sequences of a TAKEN payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeTaken(payload: Buffer): number[] {
  return decodeSequences('TAKEN', payload)
}

/** The entries of a GIVEN_BACK payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeGivenBack(payload: Buffer): GivenBack[] {
  return decodeVerdicts('GIVEN_BACK', payload, (sequence, code) => ({
    sequence,
    reason: nameOf(GIVEN_BACK_REASONS, code, 'GIVEN_BACK', 'reason'),
  }))
}

/** The entries of a SETTLED payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeSettled(payload: Buffer): Settled[] {
  return decodeVerdicts('SETTLED', payload, (sequence, code) => ({
    sequence,
    outcome: nameOf(SETTLED_OUTCOMES, code, 'SETTLED', 'outcome'),
  }))
}

/** The entries of a HANDBACK payload. @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED` */
export function decodeHandBacks(payload: Buffer): HandBack[] {
  const frame = 'HANDBACK'
  const count = readCount(frame, payload)
  const entries: HandBack[] = []
  let at = COUNT_SIZE
  let previous = 0
  for (let index = 0; index < count; index++) {
    need(frame, payload, at, HANDBACK_HEAD_SIZE)
    const sequence = readSequence(frame, payload, at, 1)
    if (sequence <= previous) throw malformed(frame, 'sequences do not increase')
    previous = sequence
    at += SEQUENCE_SIZE
    const token = sealToken(keep(payload, at, TOKEN_LENGTH))
    at += TOKEN_LENGTH
    const connection = keep(payload, at, ULID_LENGTH)
    at += ULID_LENGTH
    const kind = nameOf(HANDBACK_KINDS, payload.readUInt8(at), frame, 'kind')
    const keepAlive = payload.readUInt32LE(at + 1)
    at += 5
    const [listenerAt, listenerEnd] = partAt(frame, payload, at, 1)
    const listenerSize = listenerEnd - listenerAt
    const listener = readListener(frame, payload, listenerAt, listenerSize)
    const [metaAt, metaEnd] = partAt(frame, payload, listenerEnd, META_LENGTH_SIZE)
    const metaSize = metaEnd - metaAt
    const meta =
      metaSize === 0 ? undefined : parseMeta(frame, readText(frame, 'meta', payload, metaAt, metaSize))
    const { carried, size, end } = readCarried(frame, payload, metaEnd)
    at = end
    if (listenerSize + metaSize + size > MAX_HANDBACK_BYTES)
      throw malformed(frame, `an entry is over ${MAX_HANDBACK_BYTES} bytes`)
    if (kind === 'idle' && size > 0) throw malformed(frame, 'an idle connection carries nothing')
    entries.push({ sequence, token, connection, kind, keepAlive, listener, meta, ...carried })
  }
  if (at !== payload.length) throw malformed(frame, `${payload.length - at} bytes after the last entry`)
  return entries
}

/** The end of an OFFER of kind `resumed`, behind meta. `size`: without the length fields. */
function readResumed(payload: Buffer, at: number): { resumed: ResumedBlock; size: number; end: number } {
  need('OFFER', payload, at, 1)
  const kind = nameOf(HANDBACK_KINDS, payload.readUInt8(at), 'OFFER', 'kind of the resumed connection')
  if (kind === 'idle') throw malformed('OFFER', 'an idle connection is not resumed')
  const { carried, size, end } = readCarried('OFFER', payload, at + 1)
  return { resumed: { kind, ...carried }, size, end }
}

type Carried = Omit<ResumedBlock, 'kind'>

/** Schema, prefix, heads and state, in copies. `size`: without the length fields. */
function readCarried(
  frame: string,
  payload: Buffer,
  from: number,
): { carried: Carried; size: number; end: number } {
  const [schemaAt, schemaEnd] = partAt(frame, payload, from, 1)
  const schema = readText(frame, 'schema', payload, schemaAt, schemaEnd - schemaAt)
  let size = schemaEnd - schemaAt
  let end = schemaEnd
  const bytes = (): Buffer => {
    const [at, to] = partAt(frame, payload, end, 4)
    size += to - at
    end = to
    return to === at ? NOTHING : Buffer.from(payload.subarray(at, to))
  }
  const carried = { schema, prefix: bytes(), requestHead: bytes(), answerHead: bytes(), state: bytes() }
  return { carried, size, end }
}

/** Where the bytes of a part begin and end, behind their length, which takes `bytes` bytes. */
function partAt(frame: string, payload: Buffer, at: number, bytes: number): [from: number, to: number] {
  need(frame, payload, at, bytes)
  const size = payload.readUIntLE(at, bytes)
  need(frame, payload, at + bytes, size)
  return [at + bytes, at + bytes + size]
}

function decodeSequences(frame: string, payload: Buffer): number[] {
  checkFixedSize(frame, payload, SEQUENCE_SIZE)
  const sequences: number[] = []
  for (let at = COUNT_SIZE; at < payload.length; at += SEQUENCE_SIZE) {
    sequences.push(readSequence(frame, payload, at, 1))
  }
  return sequences
}

function decodeVerdicts<T>(
  frame: string,
  payload: Buffer,
  entry: (sequence: number, code: number) => T,
): T[] {
  checkFixedSize(frame, payload, VERDICT_SIZE)
  const entries: T[] = []
  for (let at = COUNT_SIZE; at < payload.length; at += VERDICT_SIZE) {
    entries.push(entry(readSequence(frame, payload, at, 1), payload.readUInt8(at + SEQUENCE_SIZE)))
  }
  return entries
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
function readListener(frame: string, payload: Buffer, at: number, length: number): string {
  let same = length === lastBytes.length
  for (let index = 0; same && index < length; index++) same = payload[at + index] === lastBytes[index]
  if (!same) {
    lastName = readText(frame, 'listener', payload, at, length)
    lastBytes = Uint8Array.prototype.slice.call(payload, at, at + length)
  }
  return lastName
}

function parseMeta(frame: string, text: string): Record<string, unknown> {
  let meta: unknown
  try {
    meta = JSON.parse(text)
  } catch {
    throw malformed(frame, 'meta is not JSON')
  }
  if (!isJsonObject(meta)) throw malformed(frame, 'meta is not a JSON object')
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
