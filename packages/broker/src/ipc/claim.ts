import type { History } from '../api/history.ts'
import type { Shifts } from '../api/shift.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { Controls } from './controls.ts'
import type { WrittenAccounts } from './copies.ts'
import type { BackendReport } from './messages.ts'

/** Version of what passes between an unclaimed worker and the next master. Raised when another version would misread it. */
export const CLAIM_VERSION = 1

/** The command on `master.sock` with which the next master asks for the worker of a dead one. */
export const CLAIM = 'claim'

/** From an unclaimed worker to the next master, which is its master from now on. */
export interface Claimed {
  readonly type: 'claimed'
  readonly version: number
  readonly pid: number
  /** In clock ticks since boot; see `factsOf`. */
  readonly started: string
  /** As the former master sent it (`estate`). The descriptors attached are the worker's channel, then those of the estate. */
  readonly estate: unknown
  readonly snapshot: MetricSnapshot
  readonly backends: readonly BackendReport[]
  /** As they are now. Absent from workers of an older version. */
  readonly controls?: Controls
  /** The same of shifts: the estate does not change while a worker is being replaced. */
  readonly shifts?: Shifts
  /** The last 15 minutes. Absent from a worker of an older version. */
  readonly history?: History
  /** Its counts, for the time until it has a memory file of the next master's. Absent from workers that write nothing, or of an older version. */
  readonly accounts?: WrittenAccounts | undefined
  /** As in `ready`. */
  readonly succeeds?: boolean
  readonly pairs?: boolean
  readonly pauses?: boolean
}
