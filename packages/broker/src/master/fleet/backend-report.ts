import type * as ipc from '../../ipc/messages.ts'

/** What of a worker's report the fleet and its deploys go by. */
export type BackendReport = Pick<ipc.BackendReport, 'service' | 'id' | 'slot' | 'pid' | 'state' | 'owner'>

/** Whether it is the backend of the managed process `id`, or one of its backends. */
function isOf(id: string, report: BackendReport): boolean {
  return report.id === id || report.owner === id
}

/** Whether a broker may still give it connections, or waits for those that it has. */
export function isListed(reports: readonly BackendReport[], id: string): boolean {
  return reports.some((report) => isOf(id, report))
}

/** The state that serves best: during a reload a backend may be registered with two workers. Undefined when nobody lists it. */
export function reportedState(reports: readonly BackendReport[], id: string): string | undefined {
  const states = reports.filter((report) => isOf(id, report)).map(({ state }) => state)
  return states.includes('ready') ? 'ready' : states[0]
}
