import type * as ipc from '../../ipc/messages.ts'

/** The part of a worker's report that the fleet and its deploys use. */
export type BackendReport = Pick<ipc.BackendReport, 'service' | 'id' | 'slot' | 'pid' | 'state' | 'owner'> &
  Partial<Pick<ipc.BackendReport, 'version' | 'tally'>>

/** Whether it is the backend of the managed process `id`, or one of its backends. */
function isOf(id: string, report: BackendReport): boolean {
  return report.id === id || report.owner === id
}

/** Whether a worker may still give it connections, or waits for those that it has. */
export function isListed(reports: readonly BackendReport[], id: string): boolean {
  return reports.some((report) => isOf(id, report))
}

/** Slots of managed processes, by their ids. That of the process's own backend counts before one that descends from it. */
export function slotsOf(reports: readonly BackendReport[]): Map<string, string> {
  const slots = new Map<string, string>()
  for (const { owner, slot } of reports) if (typeof owner === 'string') slots.set(owner, slot)
  for (const { id, slot } of reports) slots.set(id, slot)
  return slots
}

/** The best state reported: during a reload a backend may be registered with two workers. Undefined if no worker lists it. */
export function reportedState(reports: readonly BackendReport[], id: string): string | undefined {
  const states = reports.filter((report) => isOf(id, report)).map(({ state }) => state)
  return states.includes('ready') ? 'ready' : states[0]
}
