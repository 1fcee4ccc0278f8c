import { localAddress, NativeError } from '@baton/native-sendmsg'
import type { Fleet } from './fleet/fleet.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { ListeningSockets } from './listening-sockets.ts'
import { type ListeningEnds, openConnections } from './open-connections.ts'
import type { WorkerPool } from './workers/worker-pool.ts'

/** Interval between lines, in ms. */
const INTERVAL_MS = 5000

/** Workers' gauges that a stop waits for, and what they count. */
const GAUGES: readonly (readonly [metric: string, one: string, many: string])[] = [
  ['baton_connections_held', 'client held', 'clients held'],
  ['baton_handoffs_in_flight', 'handoff', 'handoffs'],
  ['baton_relay_connections', 'relay', 'relays'],
]

/** While the master stops, reports at intervals what it is waiting for. */
export class StopReport {
  readonly #listeningEnds: ListeningEnds
  readonly #workerPool: Pick<WorkerPool, 'workers'>
  readonly #fleet: Pick<Fleet, 'statuses'>
  /** End of the drain deadline, on the clock of `performance.now()`. */
  readonly #deadline: number
  readonly #print: (line: string) => void
  readonly #timer: NodeJS.Timeout
  #over = false

  /** @param sockets still open, because the ports are not known afterwards */
  constructor(
    sockets: ListeningSockets,
    workerPool: Pick<WorkerPool, 'workers'>,
    fleet: Pick<Fleet, 'statuses'>,
    deadline: number,
    print: (line: string) => void,
  ) {
    this.#listeningEnds = listeningEndsOf(sockets)
    this.#workerPool = workerPool
    this.#fleet = fleet
    this.#deadline = deadline
    this.#print = print
    this.#timer = setInterval(() => void this.#report(), INTERVAL_MS)
  }

  end(): void {
    this.#over = true
    clearInterval(this.#timer)
  }

  async #report(): Promise<void> {
    const waiting = [...this.#workers(), ...(await this.#processes())]
    // The stop may have ended meanwhile.
    if (this.#over || waiting.length === 0) return
    const left = Math.round((this.#deadline - performance.now()) / 1000)
    this.#print(
      `waiting for ${waiting.join(', ')}; ${left > 0 ? `${left} s left` : 'the deadline has passed'}`,
    )
  }

  #workers(): string[] {
    const workers = [...this.#workerPool.workers]
    const counted = GAUGES.flatMap(([metric, one, many]) =>
      [
        ...gauge(
          workers.map(({ snapshot }) => snapshot),
          metric,
        ),
      ].map(([service, count]) => `${count} ${count === 1 ? one : many} of ${service}`),
    )
    if (counted.length > 0) return counted
    return workers.map(({ pid }) => `worker (pid ${pid})`)
  }

  async #processes(): Promise<string[]> {
    const statuses = this.#fleet.statuses()
    const pids = statuses.flatMap(({ pid }) => pid ?? [])
    if (pids.length === 0) return []
    const open = await openConnections(pids, this.#listeningEnds)
    return statuses.flatMap(({ instance, pid }) => {
      if (pid === null) return []
      const count = open.get(pid) ?? 0
      const name = `${instance} (pid ${pid})`
      return count === 0 ? name : `${count} ${count === 1 ? 'connection' : 'connections'} of ${name}`
    })
  }
}

/** Sums by service of the values above 0. */
function gauge(snapshots: readonly MetricSnapshot[], name: string): ReadonlyMap<string, number> {
  const sums = new Map<string, number>()
  for (const snapshot of snapshots) {
    for (const { labels, value } of snapshot.find((metric) => metric.name === name)?.values ?? []) {
      const service = String(labels['service'])
      if (value > 0) sums.set(service, (sums.get(service) ?? 0) + value)
    }
  }
  return sums
}

function listeningEndsOf({ listeners }: ListeningSockets): ListeningEnds {
  const [ports, paths] = [new Set<number>(), new Set<string>()]
  for (const { fd, address } of listeners.values()) {
    if (address.kind === 'unix') paths.add(address.path)
    else if (address.port !== 0) ports.add(address.port)
    else if (!fd.closed) ports.add(boundPort(fd.fd))
  }
  return { ports, paths }
}

/** 0, which no connection has, if the kernel does not report it. */
function boundPort(fd: number): number {
  try {
    return localAddress(fd).port
  } catch (error) {
    if (error instanceof NativeError) return 0
    throw error
  }
}
