import type { ManagedReport } from '../../ipc/messages.ts'
import { processExists, readStat, type ProcessStat } from '../../supervise/peer-process.ts'

/** Parents that are looked at before a process is taken for a stranger: a command is some shells and runners deep. */
const MAX_PARENTS = 64

/** What is asked of the system about a process: where a test puts its own. */
export interface ProcessTable {
  stat(pid: number): ProcessStat | undefined
  exists(pid: number): boolean
}

const systemTable: ProcessTable = { stat: readStat, exists: processExists }

/**
 * The processes that the master runs for services with a `command`, as it said last, and which of them a peer belongs to. What the
 * environment or HELLO says proves nothing here: the kernel's process tree does.
 */
export class ManagedProcesses {
  readonly #table: ProcessTable
  readonly #byId = new Map<string, ManagedReport>()
  readonly #byPid = new Map<number, ManagedReport>()
  readonly #listeners = new Set<() => void>()

  constructor(table: ProcessTable = systemTable) {
    this.#table = table
  }

  /** @param reports all that run now */
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

  /** @returns to be called when it is not to be told any more */
  onUpdate(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  /**
   * The managed process that `pid` is, or that it comes from. The master starts each as the leader of a session, which what it starts
   * stays in, also when what lies between has ended; what has left the session is found by its parents.
   *
   * @param claimed the id in HELLO: believed only where /proc hides the process
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
