import type { Waiting } from './held-client.ts'

/** Stands for a connection that waits; see `Keeper`. A number, because many thousands may wait. */
export type Kept = number

/** Has copies kept of the connections of one service that wait, outside of this process. */
export interface Keeper {
  /** It waits from now on, and goes nowhere before `over`. */
  keep(connection: Waiting): Kept | undefined
  /** They no longer wait. To be called before anything else becomes of them: no other process takes them from now on. */
  over(kept: readonly (Kept | undefined)[]): void
}

/** Without a master that keeps them. */
export const noKeeper: Keeper = { keep: () => undefined, over: () => {} }
