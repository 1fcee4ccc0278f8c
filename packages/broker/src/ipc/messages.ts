import type { ResumedKind } from '@baton/backend-sdk/protocol'
import type { ListenerConfig } from '../config/config.ts'
import type { Packed } from '../config/packed.ts'
import type { History, HistoryPoints } from '../api/history.ts'
import type { Change } from '../api/events.ts'
import type { ScaleResult } from '../api/scale.ts'
import type { ScaleTarget } from '../config/instances.ts'
import type { Shift, Shifts } from '../api/shift.ts'
import type { BackendState, HandBackKind } from '../metrics/labels.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { Control, Controls } from './controls.ts'
import type { PeerProcess } from '../supervise/proc.ts'
import type { TicketKeys } from './ticket-keys.ts'

/** Descriptor number of a worker's end of its channel to the master. */
export const WORKER_CHANNEL = 3

/** A backend, as reported by the worker it is registered with. */
export interface BackendReport {
  readonly service: string
  /** ULID; unchanged when the backend re-registers with another worker. */
  readonly id: string
  readonly slot: string
  readonly pid: number
  readonly state: BackendState
  /** Whether its health checks succeed, or there are none: its state may be another one meanwhile. Absent from workers of an older version. */
  readonly healthy?: boolean
  readonly version: string | null
  /** Counts since it registered with this worker: connections and failures; health checks, and how many of them failed. Absent as below. */
  readonly tally?: {
    readonly adopted: number
    readonly failures: number
    readonly checks: number
    readonly failedChecks: number
  }
  /** Identify the process, together with the pid (`PeerProcess`). Absent from workers of an older version. */
  readonly uid?: number
  readonly started?: string | null
  /** ULID of the managed process that it is, or descends from; null if Baton did not start it. */
  readonly owner?: string | null
}

/** Our end of the output of a managed process, among the descriptors of an estate. */
export interface KeptOutput {
  readonly index: number
  /** Such as `web.1`. */
  readonly instance: string
  /** ULID. */
  readonly backend: string
  readonly pid: number
  readonly stream: 'stdout' | 'stderr'
  /** Absent from a master of an older version. */
  readonly service?: string
  readonly slot?: string | null
}

/** A process that the master runs for a service with a `command`. */
export interface ManagedReport {
  /** ULID, under which it registers as a backend. */
  readonly id: string
  readonly service: string
  readonly pid: number
  /** Being stopped: a deploy has replaced it, or it is surplus. */
  readonly leaving: boolean
}

/**
 * Backends known to the previous worker, by ULID. `slot`: the metric slot, so that the backend keeps its name on the next worker.
 * `healthy`: its health checks succeeded, or there are none, so it need not pass one again. `draining`: it takes no more connections, so
 * nothing waits for it. `process`: the owner of the id.
 */
export type KnownBackends = Readonly<
  Record<
    string,
    {
      readonly slot: string
      readonly healthy: boolean
      readonly draining?: boolean
      readonly process?: PeerProcess | undefined
    }
  >
>

/** Purpose of a listening socket in a worker. */
export type SocketRole = 'listener' | 'control' | 'admin' | 'agentCheck'

/**
 * From the master to a worker. A worker receives `sockets` and `start`, then `serve` (backends) and `accept`
 * (clients and the admin API). It ends with `stop`, or with `pause`, `release` and `finish` when a successor takes over.
 */
export type ToWorker =
  /**
   * Listening sockets, attached. Role `listener`: in the order of `names`; other roles: one socket, and `names` is empty. After `start`:
   * the socket file was re-created, and this is the new socket.
   */
  | {
      readonly type: 'sockets'
      readonly role: SocketRole
      readonly names: readonly string[]
    }
  | {
      readonly type: 'start'
      /** The configuration: see `packConfig`. Of an older master, whose files were replaced, the text of `file`. */
      readonly config: Packed
      readonly file?: string
      readonly control: { readonly path: string; readonly mode: number }
      /** Backends of the previous worker. */
      readonly known: KnownBackends
      /** As in `managed`. */
      readonly managed?: readonly ManagedReport[]
      /** No worker serves, so clients wait for this one: it accepts before it loads its admin server. Otherwise it loads that before `ready`. */
      readonly administersLate?: boolean
      /** Absent in the message of an older program. */
      readonly controls?: Controls
      /** As in `shifts`. */
      readonly shifts?: Shifts
      /** Of earlier workers. Absent in the message of an older program. */
      readonly history?: History
      /** As in `tickets`. */
      readonly tickets?: TicketKeys
    }
  /** An operator has ordered this, at another worker. */
  | { readonly type: 'control'; readonly service: string; readonly control: Control }
  /**
   * Before `start`, and after a `claim`. Attached: one end of a stream, on which the worker sends copies of what waits (`ipc/copies.ts`), and a memory
   * file, which outlives it. `limit`: the number of copies that the master has room for.
   */
  | { readonly type: 'copies'; readonly limit: number }
  /**
   * To the worker that serves, and after each change. Attached: the operator's socket, then the other listening sockets. The worker keeps this, in
   * case the master is killed, and gives it to the next one. Without it, or with null, the worker ends with its master.
   */
  | {
      readonly type: 'estate'
      readonly estate: unknown
      /** How many of the descriptors, from the first, are listening sockets. */
      readonly sockets: number
      readonly outputs: readonly KeptOutput[]
    }
  /** All processes that the master runs for services with a `command`. Sent after each change. */
  | { readonly type: 'managed'; readonly processes: readonly ManagedReport[] }
  /** All shifts in force. Sent after each change, and answered with `shifted` once they apply. */
  | { readonly type: 'shifts'; readonly shifts: Shifts; readonly ask: number }
  /** All keys for TLS session tickets. Sent after each change. */
  | { readonly type: 'tickets'; readonly tickets: TicketKeys }
  | { readonly type: 'serve' }
  /**
   * Answered immediately with `pong` by the event loop; a worker that does not answer is stuck. `quiet`: or in the memory file (`writePulse`), which
   * does not wake the master.
   */
  | { readonly type: 'ping'; readonly quiet?: boolean }
  /** Write the status to the log. */
  | { readonly type: 'dump' }
  /** Another worker is being scraped: send the current counters (`counted`). */
  | { readonly type: 'count' }
  /** Answered with `pairs`, after all earlier orders. Sent only to a worker that knows it. */
  | { readonly type: 'pairs'; readonly ask: number }
  | { readonly type: 'accept' }
  /**
   * Register no more backends, and accept no more connections to the admin API. Answered with `paused`, by a worker whose `ready` or `pong` says that it
   * `pauses`. A later `serve` means that the successor has failed.
   */
  | { readonly type: 'pause' }
  /** Ask the backends to register with the successor. */
  | { readonly type: 'release'; readonly reason: string }
  /**
   * Attached: the socket of the `finish` that is about to come. If the master is killed before, the successor says on it that it goes on
   * (`heir`), and this is that `finish`; if the socket ends without a word, there is no successor. Sent only to a worker that knows it, and then the
   * successor says what it has taken.
   */
  | { readonly type: 'successor'; readonly removed: readonly string[]; readonly deadline: number }
  /**
   * Stop accepting, after accepting what is queued in the kernel for `removed` listeners. Send held clients to the successor over the
   * attached socket (`peer` at the other end; none is attached after `successor`), and exit when nothing is left; relays are cut after `deadline` ms. Sent again when the successor
   * has died: only the socket counts then, to the next one.
   */
  | { readonly type: 'finish'; readonly removed: readonly string[]; readonly deadline: number }
  /** Attached: one end of a socketpair, on which a predecessor sends its held clients. */
  | { readonly type: 'peer' }
  /**
   * Drain for at most `deadline` ms, then exit. `leave`: what waits does not wait for a backend here, but is copied, and left to the next start of the
   * broker. A worker of an older version drains.
   */
  | { readonly type: 'stop'; readonly deadline: number; readonly leave?: boolean }
  /** Drain one backend, and those that descend from the same managed process. */
  | { readonly type: 'drain'; readonly service: string; readonly backend: string; readonly deadline: number }
  /** Add a listener at run time; its socket is attached. `parts`: { listener, service }, see `pack`. */
  | { readonly type: 'listen'; readonly parts: Packed }
  /** The log file was reopened; its descriptor is attached. */
  | { readonly type: 'log' }
  /** The master has started or finished an operation, to be sent to subscribers of the event stream. */
  | { readonly type: 'changed'; readonly change: Change }
  /** Counters of other processes: the answer to the `collect` with this `ask`, or unsolicited if it is 0. */
  | { readonly type: 'metrics'; readonly ask: number; readonly snapshots: readonly MetricSnapshot[] }
  | {
      readonly type: 'reloaded'
      readonly ask: number
      readonly success: boolean
      readonly log: readonly string[]
    }
  /** To the request with this `ask`, other than `reload`. */
  | {
      readonly type: 'answer'
      readonly ask: number
      readonly success: boolean
      readonly log: readonly string[]
      /** Of a scale that succeeded. */
      readonly result?: ScaleResult
    }

/** From a worker to its master. */
export type FromWorker =
  /** Initialised; accepting nothing yet. */
  | {
      readonly type: 'ready'
      readonly succeeds?: boolean
      readonly pairs?: boolean
      readonly pauses?: boolean
    }
  | { readonly type: 'failed'; readonly code: string; readonly message: string }
  /** All registered backends. Sent after each change, and once a second. */
  | {
      readonly type: 'backends'
      readonly backends: readonly BackendReport[]
      /** Open connections of its backends, and its own. Absent from workers of an older version. */
      readonly connections?: number
    }
  /** A listener added at run time is accepting. */
  | { readonly type: 'listens'; readonly listener: string }
  /** The worker's own counters, once a second and before it exits. */
  | { readonly type: 'counted'; readonly snapshot: MetricSnapshot }
  /** How many workers may still send it connections. All that was sent by others has arrived, and is counted. */
  | { readonly type: 'pairs'; readonly ask: number; readonly open: number }
  /** The worker is being scraped: send the counters of the other processes (`metrics`). */
  | { readonly type: 'collect'; readonly ask: number }
  /** A reload was requested over the admin API. */
  | {
      readonly type: 'reload'
      readonly ask: number
      readonly by: string
      /** False: refuse the reload while another operation is in progress. Absent from workers of an older program: wait. */
      readonly wait?: boolean
    }
  /** An operator has paused a service here, resumed it, or changed its maintenance. */
  | { readonly type: 'control'; readonly service: string; readonly control: Control }
  /** A shift was requested over the admin API; null ends the one in force. */
  | {
      readonly type: 'shift'
      readonly ask: number
      readonly by: string
      readonly service: string
      readonly shift: Shift | null
    }
  /** One more point of each service. */
  | { readonly type: 'history'; readonly points: HistoryPoints }
  /** Another number of instances was requested over the admin API. */
  | {
      readonly type: 'scale'
      readonly ask: number
      readonly by: string
      readonly service: string
      readonly target: ScaleTarget
    }
  /** The answer to the `shifts` with this `ask`. */
  | { readonly type: 'shifted'; readonly ask: number }
  /** The answer to `pause`. */
  | { readonly type: 'paused' }
  /**
   * `succeeds`: it knows `successor`; `pairs`: that question; `pauses`: it answers `pause`. Absent from workers of an older version, as in `ready`.
   */
  | {
      readonly type: 'pong'
      readonly succeeds?: boolean
      readonly pairs?: boolean
      readonly pauses?: boolean
    }

/** A connection that waits in one worker, as the next one gets it. */
export interface HeldClient {
  readonly service: string
  readonly listener: string
  readonly protocol: ListenerConfig['protocol']
  /** ULID. */
  readonly id: string
  /** CLOCK_MONOTONIC at accept, in ms: one clock for all processes of a host. */
  readonly acceptedAt: number
  /**
   * Of an idle connection that was handed back: how long it may stay idle from now on, in milliseconds; null for no limit. Absent for a client
   * that waits for a backend; a worker of an older version does not know it, and offers the connection at once.
   */
  readonly idleFor?: number | null
  /**
   * Of a client that waits for a backend between two requests: CLOCK_MONOTONIC at which it is to be closed, in ms; null for never. A worker of an older
   * version does not know it, and offers the connection as a new one.
   */
  readonly quietUntil?: number | null
  /** Of a client that waits for a backend after a backend handed it back. */
  readonly handedBack?: HandBackKind
  /** From a PROXY header: the client of a load balancer. */
  readonly proxied?: { readonly source: HeldAddress; readonly destination: HeldAddress }
  /** The choice that its first bytes have made, beside its service. A worker of an older version does not know it, and offers it to any backend. */
  readonly routed?: { readonly version?: string | undefined; readonly sticky?: string | undefined }
  /**
   * Its service is not chosen yet: what it has to show next, a PROXY header, or what routes depend on. Then `service` is empty: a worker of an
   * older version closes it.
   */
  readonly peeked?: 'proxy' | 'content'
  /** Such a connection has not passed the limits of its listener yet. A worker of an older version does not know it, and admits the connection. */
  readonly unjudged?: boolean
  /**
   * Of a client whose state goes with it. Then `service` is empty and `protocol` is `tcp`: a worker of an older version, which cannot go on
   * with it, closes it without a byte.
   */
  readonly resume?: HeldState
}

/** Maximum connections in a `HeldClients`: well below the reserve of descriptors. */
export const MAX_CLIENTS = 32

/**
 * From a worker, or from the master for one that was killed, to the worker that follows: held clients, in order of arrival, and idle
 * connections, with their descriptors attached.
 */
export interface HeldClients {
  readonly type: 'held'
  readonly clients: readonly HeldClient[]
  /** Counts the messages. The receiver says `taken` before it does anything with them. Absent from one that does not wait for that. */
  readonly number?: number
}

/** The other way. */
export type FromReceiver =
  /** All up to the message with this number are its own now. */
  | { readonly type: 'taken'; readonly number: number }
  /** It goes on without a master, and would have replaced the worker at the other end. */
  | { readonly type: 'heir' }

/** A socket address of a client. */
export interface HeldAddress {
  readonly family: 'IPv4' | 'IPv6' | 'unix'
  readonly address: string
  readonly port: number
}

/** The state of a connection that was handed back; bytes in base64. */
export interface HeldState {
  readonly service: string
  readonly protocol: ListenerConfig['protocol']
  /** ULID of the backend that has handed it back. */
  readonly giver: string
  readonly kind: ResumedKind
  readonly schema: string
  readonly prefix: string
  readonly requestHead: string
  readonly answerHead: string
  readonly state: string
}
