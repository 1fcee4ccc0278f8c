import type { ResumedBlock } from '@baton/backend-sdk/protocol'
import type { HeldState } from '../../ipc/messages.ts'
import type { ResumeState } from '../connection/resume-state.ts'

/** The state of a held connection, as one worker sends it to the next. */
export function heldState(
  { block, giver }: ResumeState,
  of: Pick<HeldState, 'service' | 'protocol'>,
): HeldState {
  const { kind, schema, ...bytes } = block
  return {
    ...of,
    giver,
    kind,
    schema,
    prefix: bytes.prefix.toString('base64'),
    requestHead: bytes.requestHead.toString('base64'),
    answerHead: bytes.answerHead.toString('base64'),
    state: bytes.state.toString('base64'),
  }
}

export function blockOf({ kind, schema, ...text }: HeldState): ResumedBlock {
  return {
    kind,
    schema,
    prefix: Buffer.from(text.prefix, 'base64'),
    requestHead: Buffer.from(text.requestHead, 'base64'),
    answerHead: Buffer.from(text.answerHead, 'base64'),
    state: Buffer.from(text.state, 'base64'),
  }
}
