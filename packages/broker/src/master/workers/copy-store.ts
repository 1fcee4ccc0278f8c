import type { OwnedFd } from '@baton/native-sendmsg'
import type { Copy } from '../../ipc/copies.ts'

/** Keeps the master's copies of one worker's connections where they outlive the master as well. Borrows the descriptors until they are removed. */
export interface StoredCopies {
  /** @param reachable see `Survivor` */
  add(copy: Copy, fd: OwnedFd, reachable: boolean): void
  remove(copy: Pick<Copy, 'slot' | 'number'>): void
  /** Removes all that are left. */
  close(): void
}

export interface CopyStore {
  /**
   * @param worker identifies it for as long as the machine runs
   * @param file the memory file with its marks, borrowed until `close`
   */
  of(worker: string, file: OwnedFd): StoredCopies
}

/** Without a service manager that keeps descriptors. */
export const noStore: CopyStore = {
  of: () => ({ add: () => {}, remove: () => {}, close: () => {} }),
}

/** Pid and start time, in clock ticks since boot: no other process ever has both. */
export function workerKey({ pid, startedAt }: { readonly pid: number; readonly startedAt: string }): string {
  return `${pid}-${startedAt}`
}
