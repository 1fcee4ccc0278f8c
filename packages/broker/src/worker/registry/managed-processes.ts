import type { ManagedReport } from '../../ipc/messages.ts'
import { factsOf, type ProcessFacts, processExists } from '../../supervise/proc.ts'

/** Maximum ancestors checked before a process counts as unmanaged: a command may be several shells and runners deep. */
const MAX_PARENTS = 64

/** Process lookups, behind an interface so that tests can replace them. */
export interface ProcessTable {
  stat(pid: number): Pick<ProcessFacts, 'parent' | 'session'> | undefined
  exists(pid: number): boolean
}

const systemTable: ProcessTable = { stat: factsOf, exists: processExists }

/**
 * The processes that the master runs for services with a `command`, according to its last report, and which of them a peer
 * belongs to. Proof is the kernel's process tree, not the environment or HELLO.
 */
export class ManagedProcesses {
  readonly #table: ProcessTable
  readonly #byId = new Map<string, ManagedReport>()
  readonly #byPid = new Map<number, ManagedReport>()
  readonly #listeners = new Set<() => void>()

  constructor(table: ProcessTable = systemTable) {
    this.#table = table
  }

  /** @param reports all that are running now */
  update(reports: readonly ManagedReport[]): void {
    this.#byId.clear()
    this.#byPid.clear()
    for (const report of reports) {
      this.#byId.set(report.id, report)
      this.#byPid.set(report.pid, report)
    }
    for (const listener of this.#listeners) listener()
  }

  get(id: string): ManagedReport | undefined {
    return this.#byId.get(id)
  }

  /** @returns removes the listener */
  onUpdate(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  /**
   * The managed process that `pid` is, or descends from. The master starts each as a session leader. Descendants stay in the session,
   * even if the processes between have exited; those that have left it are found by their parents.
   *
   * @param claimed the id in HELLO, trusted only if /proc hides the process
   */
  ownerOf(pid: number, claimed: string | null): ManagedReport | undefined {
    for (let at = pid, hops = 0; at > 1 && hops < MAX_PARENTS; hops++) {
      const leader = this.#byPid.get(at)
      if (leader !== undefined) return leader
      const stat = this.#table.stat(at)
      if (stat === undefined) return this.#table.exists(at) ? this.#claim(claimed) : undefined
      const session = this.#byPid.get(stat.session)
      if (session !== undefined) return session
      at = stat.parent
    }
    return undefined
  }

  #claim(id: string | null): ManagedReport | undefined {
    return id === null ? undefined : this.#byId.get(id)
  }
}
