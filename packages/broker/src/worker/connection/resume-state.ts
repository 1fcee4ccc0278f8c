import type { ResumedBlock, SettledOutcome } from '@baton/backend-sdk/protocol'

/** Goes with a connection from one backend to the next. */
export interface ResumeState {
  readonly block: ResumedBlock
  /** ULID of the backend that has handed it back. The connection is never offered to that process again. */
  readonly giver: string
  /** To be called once: what became of it. */
  readonly settled: (outcome: SettledOutcome) => void
}

/** Bytes of what varies in length. */
export function stateBytes({
  schema,
  prefix,
  requestHead,
  answerHead,
  state,
}: Omit<ResumedBlock, 'kind'>): number {
  return Buffer.byteLength(schema) + prefix.length + requestHead.length + answerHead.length + state.length
}
