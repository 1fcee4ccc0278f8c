/** One backend as the worker that serves it sees it. */
export interface BackendReport {
  readonly service: string
  /** ULID. */
  readonly id: string
  readonly slot: string
  readonly pid: number
  /** `ready`, `draining`, `unhealthy` and so on; only some of them mean something here. */
  readonly state: string
  /** ULID of the managed process that it is, or comes from. */
  readonly owner?: string | null
}

/** Whether it is the backend of the managed process `id`, or one of its backends. */
function isOf(id: string, report: BackendReport): boolean {
  return report.id === id || report.owner === id
}

/** Whether a broker may still give it connections, or waits for those that it has. */
export function isListed(reports: readonly BackendReport[], id: string): boolean {
  return reports.some((report) => isOf(id, report) && report.state !== 'drained')
}

/** The state that serves best: during a reload a backend may be registered with two workers. Undefined when nobody lists it. */
export function reportedState(reports: readonly BackendReport[], id: string): string | undefined {
  const states = reports.filter((report) => isOf(id, report)).map(({ state }) => state)
  return states.includes('ready') ? 'ready' : states[0]
}
