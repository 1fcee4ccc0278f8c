/** Sizes, in bytes, of the parts of a batch. */
import { TOKEN_LENGTH, ULID_LENGTH } from './frames.ts'

export const COUNT_SIZE = 2
export const SEQUENCE_SIZE = 8
export const ACK_SIZE = SEQUENCE_SIZE + ULID_LENGTH
export const NACK_SIZE = SEQUENCE_SIZE + 1 + TOKEN_LENGTH
/** Sequence, token, ULID, deadline, kind, length of the listener name; the name and meta follow. */
export const OFFER_HEAD_SIZE = SEQUENCE_SIZE + TOKEN_LENGTH + ULID_LENGTH + 8 + 1 + 1
export const META_LENGTH_SIZE = 2
/** Sequence and one byte: the reason of GIVEN_BACK, the outcome of SETTLED. */
export const VERDICT_SIZE = SEQUENCE_SIZE + 1
/** Sequence, token, ULID, kind, keepAlive, length of the listener's name; what follows has lengths of its own. */
export const HANDBACK_HEAD_SIZE = SEQUENCE_SIZE + TOKEN_LENGTH + ULID_LENGTH + 1 + 4 + 1

/** A u64 sequence is read as two u32: a bigint for each would be an allocation on the hot path. */
export const U32_SPAN = 0x1_0000_0000
