import type { ScaleReply } from '../../api/scale.ts'
import type { ScaleTarget } from '../../config/instances.ts'
import type { CommandResult } from '../../ipc/operator-protocol.ts'

export interface ScaleCommand {
  readonly service: string
  readonly target: ScaleTarget
  /** The requester, for logs and events. */
  readonly by: string
  readonly progress: (line: string) => void
}

export type ScaleAnswer = CommandResult & ScaleReply
