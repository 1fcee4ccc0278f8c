import { type OwnedFd, Poller } from '@baton/native-sendmsg'
import type { ReloadResult, Status } from '../api/status.ts'
import type { Control, Controls } from '../ipc/controls.ts'
import type { BackendReport, KnownBackends, SocketRole } from '../ipc/messages.ts'
import type { ListenerConfig, ServiceConfig } from '../config/config.ts'
import { type ClientConnection, type ParkedClient } from './connection/connection.ts'
import type { ResumeState } from './connection/resume-state.ts'
import type { History, HistoryPoints } from '../api/history.ts'
import type { Change } from '../api/events.ts'
import type { ScaleReply } from '../api/scale.ts'
import type { ScaleTarget } from '../config/instances.ts'
import type { Shift, Shifts } from '../api/shift.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { ManagedProcesses } from './registry/managed-processes.ts'
import type { TicketKeys } from '../ipc/ticket-keys.ts'
import type { Copier } from './copies/copier.ts'
import { type Successor, type Waiting } from './service/hand-over.ts'
import { type Sockets } from '../listening/sockets.ts'

/** Resources and callbacks that a master provides. Without a master, the worker creates its own. */
export interface WorkerContext {
  readonly sockets: Sockets
  /** The listening socket of the admin server. */
  readonly admin: OwnedFd
  readonly poller: Poller
  /** Backends of a predecessor. */
  readonly known: KnownBackends
  /** Processes that the master runs. */
  readonly managed: ManagedProcesses
  /** A backend has registered or gone, or its health has changed. */
  readonly onBackends: () => void
  /** Counters of the broker's other processes. */
  readonly collect: () => Promise<readonly MetricSnapshot[]>
  readonly reload: (by: string, wait: boolean) => Promise<ReloadResult>
  /** Orders of operators that apply; see `ReplaceableWorker.control`. */
  readonly controls: Controls
  /** An operator has ordered something here. */
  readonly onControl: (service: string, control: Control) => void
  /** Shifts in force. */
  readonly shifts: Shifts
  /** Keys for TLS session tickets. */
  readonly tickets: TicketKeys
  /** Begins a shift of a service, or ends it. */
  readonly requestShift: (service: string, shift: Shift | undefined, by: string) => Promise<ReloadResult>
  /** Of earlier workers, for the charts of the status page; and where each new point goes. */
  readonly history: History
  readonly onHistory: (points: HistoryPoints) => void
  /** Changes the number of instances of a service. */
  readonly requestScale: (service: string, target: ScaleTarget, by: string) => Promise<ScaleReply>
  /** Log lines that this process has dropped. */
  readonly droppedLines: () => number
  /** Keeps copies of what waits, and the accounts. Undefined if the master does not. */
  readonly copier: Copier | undefined
  /** Pid of the master; null while there is none. */
  readonly master: () => number | null
}

/** Everything that serves connections in one process. There is one per process. */
export interface Worker {
  /** ULID of this broker process. */
  readonly id: string
  /** Listener name -> address as bound. */
  readonly addresses: ReadonlyMap<string, string>
  readonly adminAddress: string
  readonly controlPath: string
  status(): Status
  /**
   * Stops accepting and waits up to `deadline` milliseconds, and up to the deadline of each service, until every accepted client has been handed off; rejects the rest.
   * Then disconnects the backends; adopted connections are unaffected.
   */
  drain(deadline: number): Promise<void>
  /** Like `drain`, without waiting. */
  close(): Promise<void>
}

/** A worker run by a master, which tells it when to serve, accept and hand over. */
export interface ReplaceableWorker extends Worker {
  /** Loads the code of the admin server. */
  loadAdmin(): Promise<void>
  /** Starts to register backends. Called again after `pause`, it also answers the admin API again. */
  serve(): Promise<void>
  /** Starts to answer the admin API, unless paused; rejects if it cannot. */
  administer(): Promise<void>
  /** Starts to accept clients. */
  accept(): void
  /** Registers no more backends, and accepts no more connections to the admin API. Resolves when it accepts none. */
  pause(): Promise<void>
  /** Asks the backends to register with the successor. */
  askToReconnect(reason: string): void
  /**
   * Like `askToReconnect`, but there may be no successor: also closes the control and admin sockets. Idle connections go to the backends, which may know
   * another worker.
   */
  withdraw(reason: string): void
  /**
   * Stops accepting; on `removed` listeners, only after accepting what is in the kernel's queue. Connections held now or later go to
   * `successor` with their descriptors. Resolves when no connection is left here; relays are cut after `deadline` milliseconds.
   */
  finish(
    removed: readonly string[],
    successor: (service: string) => Successor,
    deadline: number,
    neighbours: {
      /** Settles when no more clients will arrive from older workers. */
      readonly predecessors: Promise<unknown>
      /**
       * To be called when all clients have been sent to the successor. Resolves when it has taken all of them, or with false if it has died before, and
       * some are here again.
       */
      readonly settled: () => Promise<boolean>
      /** Resolves when the master has answered all reload requests, whose connections to the admin server are still open. */
      readonly answered: () => Promise<unknown>
    },
  ): Promise<void>
  /** While it finishes: the successor has died, and this is the next one. */
  handOver(successor: (service: string) => Successor): void
  /** The successor has died before these connections of one service reached it. Owns the descriptors, which are in the same order. */
  takeBack(service: string, connections: readonly Waiting[], fds: readonly OwnedFd[]): void
  /** Takes connections of one service that a predecessor held. Owns their descriptors, even if the service is unknown here. */
  inherit(service: string, connections: readonly ClientConnection[]): void
  /** Keeps the state of a connection that is to be inherited next. */
  inheritState(service: string, block: ResumeState['block'], giver: string): ResumeState
  /** The same for connections that were parked there. */
  inheritParked(service: string, connections: readonly ParkedClient[]): void
  /** Adds a listener, and its service if that is new. It accepts at once if the others do. Owns `fd`. */
  listen(listener: ListenerConfig, fd: OwnedFd, service: ServiceConfig): void
  /** A socket's file was recreated; also accepts on the new socket `fd`. Owns `fd`. */
  replaceSocket(role: SocketRole, name: string | undefined, fd: OwnedFd): void
  /** Drains the backend with this ULID, and all that descend from the managed process with it. `deadline`: milliseconds. */
  drainBackend(service: string, backend: string, deadline: number): void
  /** An operator has paused a service, resumed it, or changed its maintenance, at another worker. */
  control(service: string, control: Control): void
  /** All that apply now. */
  readonly controls: Controls
  /** The last 15 minutes of each service. */
  readonly history: History
  /** These shifts are in force now, and no others. */
  shift(shifts: Shifts): void
  /** These are the keys for TLS session tickets now. */
  useTickets(tickets: TicketKeys): void
  /** Sends a change reported by the master to the event streams. */
  announce(change: Change): void
  backends(): BackendReport[]
  /** Open connections: those of its backends, and its own. */
  connections(): number
  snapshot(): Promise<MetricSnapshot>
  /** To be called after each wake-up of the poller: offers the clients accepted in it together. */
  flush(): void
  /** Whether the poller may hold back new clients, because the backends of every service are busy (`Service.busy`). */
  busy(): boolean
}
