/** Encodes the batches. OFFER is the hot path: a few entries for each wake-up. */
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
import { FrameEncodeError } from './errors.ts'
import {
  type Ack,
  FrameType,
  GIVEN_BACK_REASONS,
  type GivenBack,
  HANDBACK_KINDS,
  type HandBack,
  MAX_BATCH_ENTRIES,
  MAX_HANDBACK_BYTES,
  MAX_META_BYTES,
  NACK_REASONS,
  type Nack,
  type Offer,
  OFFER_KINDS,
  type ResumedBlock,
  type Settled,
  SETTLED_OUTCOMES,
  TOKEN_LENGTH,
  ULID_LENGTH,
} from './frames.ts'
import { PAYLOAD_OFFSET, startFrame } from './framing.ts'

const MAX_LISTENER_BYTES = 255
const MAX_SCHEMA_BYTES = 255
const MAX_U64 = 0xffff_ffff_ffff_ffffn
const NONE = new Uint8Array(0)

// Each of these throws FrameEncodeError for an empty batch, one over the limits, or an entry that cannot be encoded.

export function encodeOffers(offers: readonly Offer[]): Buffer {
  const metas = offers.map((offer) => metaBytes('OFFER', offer))
  const listeners = offers.map((offer) => listenerBytes('OFFER', offer))
  let size = COUNT_SIZE + offers.length * (OFFER_HEAD_SIZE + META_LENGTH_SIZE)
  for (const bytes of listeners) size += bytes.length
  for (const bytes of metas) size += bytes.length
  const blocks = offers.some(({ kind, resumed }) => kind === 'resumed' || resumed !== undefined)
    ? offers.map((offer, index) =>
        resumedParts(offer, (listeners[index] ?? NONE).length + (metas[index] ?? NONE).length),
      )
    : undefined
  for (const block of blocks ?? []) if (block !== undefined) size += 1 + sizeOf(block)
  const out = startBatch('OFFER', FrameType.OFFER, offers.length, size)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  let previous = 0
  for (const [index, offer] of offers.entries()) {
    if (offer.sequence <= previous) throw unencodable('OFFER', 'sequences do not increase')
    previous = offer.sequence
    at = writeSequence(out, at, 'OFFER', offer.sequence, 1)
    at = writeExactly(out, at, 'OFFER', 'token', offer.token, TOKEN_LENGTH)
    at = writeExactly(out, at, 'OFFER', 'connection', offer.connection, ULID_LENGTH)
    if (offer.deadline < 0n || offer.deadline > MAX_U64) throw unencodable('OFFER', 'deadline is not a u64')
    at = out.writeBigUInt64LE(offer.deadline, at)
    at = out.writeUInt8(codeOf(OFFER_KINDS, offer.kind, 'OFFER', 'kind'), at)
    const listener = listeners[index] ?? NONE
    at = out.writeUInt8(listener.length, at)
    out.set(listener, at)
    at += listener.length
    const meta = metas[index] ?? NONE
    at = out.writeUInt16LE(meta.length, at)
    if (meta.length > 0) out.set(meta, at)
    at += meta.length
    const block = blocks?.[index]
    if (block !== undefined) {
      at = out.writeUInt8(block.kind, at)
      at = writeCarried(out, at, block)
    }
  }
  return out
}

export function encodeAcks(acks: readonly Ack[]): Buffer {
  const out = startBatch('ACK', FrameType.ACK, acks.length, COUNT_SIZE + acks.length * ACK_SIZE)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  for (const ack of acks) {
    at = writeSequence(out, at, 'ACK', ack.sequence, 1)
    at = writeExactly(out, at, 'ACK', 'connection', ack.connection, ULID_LENGTH)
  }
  return out
}

export function encodeNacks(nacks: readonly Nack[]): Buffer {
  const out = startBatch('NACK', FrameType.NACK, nacks.length, COUNT_SIZE + nacks.length * NACK_SIZE)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  for (const nack of nacks) {
    at = writeSequence(out, at, 'NACK', nack.sequence, 0)
    at = out.writeUInt8(codeOf(NACK_REASONS, nack.reason, 'NACK', 'reason'), at)
    at = writeExactly(out, at, 'NACK', 'token', nack.token, TOKEN_LENGTH)
  }
  return out
}

export function encodeRevokes(sequences: readonly number[]): Buffer {
  return encodeSequences('REVOKE', FrameType.REVOKE, sequences)
}

export function encodeTaken(sequences: readonly number[]): Buffer {
  return encodeSequences('TAKEN', FrameType.TAKEN, sequences)
}

export function encodeGivenBack(entries: readonly GivenBack[]): Buffer {
  return encodeVerdicts('GIVEN_BACK', FrameType.GIVEN_BACK, entries, ({ reason }) =>
    codeOf(GIVEN_BACK_REASONS, reason, 'GIVEN_BACK', 'reason'),
  )
}

export function encodeSettled(entries: readonly Settled[]): Buffer {
  return encodeVerdicts('SETTLED', FrameType.SETTLED, entries, ({ outcome }) =>
    codeOf(SETTLED_OUTCOMES, outcome, 'SETTLED', 'outcome'),
  )
}

export function encodeHandBacks(entries: readonly HandBack[]): Buffer {
  const parts = entries.map(variableParts)
  let size = COUNT_SIZE
  for (const part of parts)
    size += HANDBACK_HEAD_SIZE + part.listener.length + META_LENGTH_SIZE + part.meta.length + sizeOf(part)
  const out = startBatch('HANDBACK', FrameType.HANDBACK, entries.length, size)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  let previous = 0
  for (const [index, entry] of entries.entries()) {
    const { listener, meta, ...carried } = parts[index] as HandBackParts
    if (entry.sequence <= previous) throw unencodable('HANDBACK', 'sequences do not increase')
    previous = entry.sequence
    at = writeSequence(out, at, 'HANDBACK', entry.sequence, 1)
    at = writeExactly(out, at, 'HANDBACK', 'token', entry.token, TOKEN_LENGTH)
    at = writeExactly(out, at, 'HANDBACK', 'connection', entry.connection, ULID_LENGTH)
    at = out.writeUInt8(codeOf(HANDBACK_KINDS, entry.kind, 'HANDBACK', 'kind'), at)
    if (!isU32(entry.keepAlive)) throw unencodable('HANDBACK', 'keepAlive is not a u32')
    at = out.writeUInt32LE(entry.keepAlive, at)
    at = out.writeUInt8(listener.length, at)
    at = writeBytes(out, at, listener)
    at = out.writeUInt16LE(meta.length, at)
    at = writeBytes(out, at, meta)
    at = writeCarried(out, at, carried)
  }
  return out
}

/** Schema, prefix, heads and state: what goes with a connection that moves. */
interface CarriedParts {
  readonly schema: Uint8Array
  readonly blobs: readonly Uint8Array[]
}

interface HandBackParts extends CarriedParts {
  readonly listener: Uint8Array
  readonly meta: Uint8Array
}

function variableParts(entry: HandBack): HandBackParts {
  const listener = listenerBytes('HANDBACK', entry)
  const meta = metaBytes('HANDBACK', entry)
  const carried = carriedParts('HANDBACK', entry, listener.length + meta.length)
  if (entry.kind === 'idle' && lengthOf(carried) > 0)
    throw unencodable('HANDBACK', 'an idle connection carries nothing')
  return { listener, meta, ...carried }
}

/** @param others bytes of the entry that vary in length, without these */
function resumedParts(
  { kind, resumed }: Offer,
  others: number,
): (CarriedParts & { readonly kind: number }) | undefined {
  if ((kind === 'resumed') !== (resumed !== undefined))
    throw unencodable('OFFER', 'an offer is `resumed` exactly if it has a block of that name')
  if (resumed === undefined) return undefined
  const code = codeOf(HANDBACK_KINDS, resumed.kind, 'OFFER', 'kind of the resumed connection')
  if (HANDBACK_KINDS[code - 1] === 'idle') throw unencodable('OFFER', 'an idle connection is not resumed')
  return { kind: code, ...carriedParts('OFFER', resumed, others) }
}

function carriedParts(frame: string, from: Omit<ResumedBlock, 'kind'>, others: number): CarriedParts {
  const schema = Buffer.from(from.schema)
  if (schema.length > MAX_SCHEMA_BYTES) throw unencodable(frame, `schema is over ${MAX_SCHEMA_BYTES} bytes`)
  const carried = { schema, blobs: [from.prefix, from.requestHead, from.answerHead, from.state] }
  if (others + lengthOf(carried) > MAX_HANDBACK_BYTES)
    throw unencodable(frame, `an entry is over ${MAX_HANDBACK_BYTES} bytes`)
  return carried
}

function lengthOf({ schema, blobs }: CarriedParts): number {
  return blobs.reduce((sum, blob) => sum + blob.length, schema.length)
}

/** With the length fields. */
function sizeOf(carried: CarriedParts): number {
  return 1 + 4 * carried.blobs.length + lengthOf(carried)
}

function writeCarried(out: Buffer, from: number, { schema, blobs }: CarriedParts): number {
  let at = out.writeUInt8(schema.length, from)
  at = writeBytes(out, at, schema)
  for (const blob of blobs) {
    at = out.writeUInt32LE(blob.length, at)
    at = writeBytes(out, at, blob)
  }
  return at
}

function encodeSequences(frame: string, code: number, sequences: readonly number[]): Buffer {
  const size = COUNT_SIZE + sequences.length * SEQUENCE_SIZE
  const out = startBatch(frame, code, sequences.length, size)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  for (const sequence of sequences) at = writeSequence(out, at, frame, sequence, 1)
  return out
}

function encodeVerdicts<T extends { sequence: number }>(
  frame: string,
  code: number,
  entries: readonly T[],
  verdict: (entry: T) => number,
): Buffer {
  const out = startBatch(frame, code, entries.length, COUNT_SIZE + entries.length * VERDICT_SIZE)
  let at = PAYLOAD_OFFSET + COUNT_SIZE
  for (const entry of entries) {
    at = writeSequence(out, at, frame, entry.sequence, 1)
    at = out.writeUInt8(verdict(entry), at)
  }
  return out
}

function startBatch(frame: string, code: number, count: number, size: number): Buffer {
  if (count === 0) throw unencodable(frame, 'a batch has at least one entry')
  if (count > MAX_BATCH_ENTRIES) {
    throw new FrameEncodeError(
      'BATON_ERR_FRAME_OVER_LIMIT',
      `${frame}: ${count} entries, at most ${MAX_BATCH_ENTRIES}`,
    )
  }
  const out = startFrame(code, size)
  out.writeUInt16LE(count, PAYLOAD_OFFSET)
  return out
}

function metaBytes(frame: string, { meta }: Pick<Offer, 'meta'>): Uint8Array {
  if (meta === undefined) return NONE
  let bytes: Uint8Array
  try {
    bytes = Buffer.from(JSON.stringify(meta))
  } catch (cause) {
    throw unencodable(frame, 'meta cannot be encoded as JSON', cause)
  }
  if (bytes.length > MAX_META_BYTES) throw unencodable(frame, `meta is over ${MAX_META_BYTES} bytes`)
  return bytes
}

let lastListener = ''
let lastBytes: Uint8Array = NONE

/** Encodes the name only if it differs from the previous offer's: a broker has few listeners. */
function listenerBytes(frame: string, { listener }: Pick<Offer, 'listener'>): Uint8Array {
  if (listener !== lastListener) {
    const bytes = Buffer.from(listener)
    if (bytes.length > MAX_LISTENER_BYTES)
      throw unencodable(frame, `listener is over ${MAX_LISTENER_BYTES} bytes`)
    lastListener = listener
    lastBytes = bytes
  }
  return lastBytes
}

function writeSequence(out: Buffer, at: number, frame: string, sequence: number, least: number): number {
  if (!Number.isSafeInteger(sequence) || sequence < least) {
    throw unencodable(frame, `sequence is not an integer from ${least}`)
  }
  out.writeUInt32LE(sequence % U32_SPAN, at)
  return out.writeUInt32LE(Math.floor(sequence / U32_SPAN), at + 4)
}

function writeExactly(
  out: Buffer,
  at: number,
  frame: string,
  member: string,
  bytes: Buffer,
  length: number,
): number {
  if (bytes.length !== length) throw unencodable(frame, `${member} is not ${length} bytes`)
  out.set(bytes, at)
  return at + length
}

function writeBytes(out: Buffer, at: number, bytes: Uint8Array): number {
  out.set(bytes, at)
  return at + bytes.length
}

function isU32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < U32_SPAN
}

function codeOf(names: readonly string[], name: string, frame: string, member: string): number {
  const code = names.indexOf(name) + 1
  if (code === 0) throw unencodable(frame, `${member} is not one of ${names.join(', ')}`)
  return code
}

function unencodable(frame: string, message: string, cause?: unknown): FrameEncodeError {
  return new FrameEncodeError('BATON_ERR_FRAME_NOT_ENCODABLE', `${frame}: ${message}`, { cause })
}
