import type { ListenerConfig } from '../config/config.ts'
import type { Change } from '../api/events.ts'
import type { BackendState } from '../metrics/labels.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { PeerProcess } from '../supervise/proc.ts'

/** The number of a worker's end of its channel to the master. */
export const WORKER_CHANNEL = 3

/** One backend as the worker that serves it sees it. */
export interface BackendReport {
  readonly service: string
  /** ULID; the same one when it registers anew with another worker. */
  readonly id: string
  readonly slot: string
  readonly pid: number
  readonly state: BackendState
  readonly version: string | null
  /** With the pid, which process it is (`PeerProcess`). A worker of an older version does not say. */
  readonly uid?: number
  readonly started?: string | null
  /** ULID of the managed process that it is, or comes from; null when Baton did not start it. */
  readonly owner?: string | null
}

/** A process that the master runs for a service with a `command`. */
export interface ManagedReport {
  /** ULID: the id of the backend that it is to be. */
  readonly id: string
  readonly service: string
  readonly pid: number
  /** On its way out: a deploy has replaced it, or it is not wanted any more. */
  readonly leaving: boolean
}

/**
 * By ULID: the metric slot that a backend has, so that it keeps its name when it moves to another worker, whether health
 * checks thought well of it (or there were none): it need not prove itself again, and the process that the id belongs to.
 */
export type KnownBackends = Readonly<
  Record<
    string,
    { readonly slot: string; readonly healthy: boolean; readonly process?: PeerProcess | undefined }
  >
>

/**
 * From the master to a worker. A worker goes through `sockets` and `start`, then `serve` (backends and admin), `accept`
 * (clients), and leaves by `stop`, or by `pause`, `release` and `finish` when another one takes over.
 */
export type ToWorker =
  /**
   * Descriptors in the order of `names`: listeners by name. `role` tells what the others are. After `start`: the socket's file was
   * created again, and this is the new one.
   */
  | {
      readonly type: 'sockets'
      readonly role: 'listener' | 'control' | 'admin'
      readonly names: readonly string[]
    }
  | {
      readonly type: 'start'
      /** The text of the configuration file, checked by the master. */
      readonly config: string
      readonly file: string
      readonly control: { readonly path: string; readonly mode: number }
      /** Backends of the worker before it. */
      readonly known: KnownBackends
      /** As `managed`. */
      readonly managed?: readonly ManagedReport[]
    }
  /** All processes that the master runs for services with a `command`, after each change. */
  | { readonly type: 'managed'; readonly processes: readonly ManagedReport[] }
  | { readonly type: 'serve' }
  /** Answered by `pong` at once, from the event loop: a worker that does not is stuck. */
  | { readonly type: 'ping' }
  /** Writes its status to the log. */
  | { readonly type: 'dump' }
  /** Somebody scrapes another worker: what is counted by now? */
  | { readonly type: 'count' }
  | { readonly type: 'accept' }
  /** Registers nobody from now on, until `serve` says that the successor has failed. */
  | { readonly type: 'pause' }
  /** Asks the backends to register with the successor. */
  | { readonly type: 'release'; readonly reason: string }
  /**
   * Accepts no more (of the `removed` listeners what waits in the kernel's queue first), sends who waits over `peer` (a
   * descriptor rides along), and ends when nothing is left, relays at the latest after `deadline` milliseconds.
   */
  | { readonly type: 'finish'; readonly removed: readonly string[]; readonly deadline: number }
  /** One end of a pair, on which a predecessor sends its held clients. */
  | { readonly type: 'peer' }
  /** Drains for at most so many milliseconds, then ends. */
  | { readonly type: 'stop'; readonly deadline: number }
  /** Drains one backend, and those that come from the same managed process. */
  | { readonly type: 'drain'; readonly service: string; readonly backend: string; readonly deadline: number }
  /** A listener that is added while the worker runs; its descriptor rides along. Both are texts of the configuration. */
  | { readonly type: 'listen'; readonly listener: string; readonly service: string }
  /** The log file was opened again; its descriptor rides along. */
  | { readonly type: 'log' }
  /** The master has begun something, or has come to its end, that those who listen to the events hear. */
  | { readonly type: 'changed'; readonly change: Change }
  /** What others have counted: the answer to a question, or 0 for what the worker is to know before one. */
  | { readonly type: 'metrics'; readonly ask: number; readonly snapshots: readonly MetricSnapshot[] }
  | {
      readonly type: 'reloaded'
      readonly ask: number
      readonly success: boolean
      readonly log: readonly string[]
    }

/** From a worker to its master. */
export type FromWorker =
  /** Built, and nothing accepted yet. */
  | { readonly type: 'ready' }
  | { readonly type: 'failed'; readonly code: string; readonly message: string }
  /** All backends that are registered, after each change. */
  | { readonly type: 'backends'; readonly backends: readonly BackendReport[] }
  /** A listener that came while it runs accepts. */
  | { readonly type: 'listens'; readonly listener: string }
  /** Its own counters, once a second and at its end. */
  | { readonly type: 'counted'; readonly snapshot: MetricSnapshot }
  /** Somebody scrapes: what do the others say? */
  | { readonly type: 'collect'; readonly ask: number }
  /** Somebody asks for a reload over the admin API. */
  | {
      readonly type: 'reload'
      readonly ask: number
      readonly by: string
      /** False: refuse it while something else goes on. Absent from workers of an older program, which wait. */
      readonly wait?: boolean
    }
  | { readonly type: 'pong' }

/** From a worker to its successor: clients that wait, in order of arrival; their descriptors ride along. */
export interface HeldClients {
  readonly type: 'held'
  readonly clients: readonly {
    readonly service: string
    readonly listener: string
    readonly protocol: ListenerConfig['protocol']
    /** ULID. */
    readonly id: string
    /** CLOCK_MONOTONIC at accept, milliseconds: all processes of a host share it. */
    readonly acceptedAt: number
  }[]
}
