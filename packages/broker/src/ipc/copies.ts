import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs'
import { HANDBACK_KINDS, OUTCOMES, type UnroutedReason } from '../metrics/labels.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'
import type { HeldClient } from './messages.ts'

/**
 * State that outlives a worker that is killed. For each connection that waits in it, held or parked, the master has a copy: a duplicate of the
 * descriptor, and what the next worker must know. A memory file, which both processes have, says which copies count, and what the worker has
 * counted. The worker changes it with a system call that never blocks, whether the master reads or not:
 *
 * - the mark of a copy is cleared before anything else becomes of its connection: what is still marked may be offered;
 * - each copy has a number of its own, so a mark never speaks for an earlier copy in the same slot.
 *
 * The messages only carry descriptors, and tell the master which to close.
 */
export interface Copy {
  /** Where its mark is. */
  readonly slot: number
  /** Not 0. The copy counts while its mark has this value. */
  readonly number: number
  /** Connections that wait are passed on in this order. */
  readonly order: number
  /** Of a parked connection: when its time is over, by CLOCK_MONOTONIC in ms; null for never. */
  readonly idleUntil?: number | null
  readonly client: HeldClient
}

/** From a worker, on the stream for copies. */
export type FromCopier =
  /** A duplicate of each is attached. */
  | { readonly type: 'wait'; readonly copies: readonly Copy[] }
  /** Slots and numbers in turn. */
  | { readonly type: 'over'; readonly copies: readonly number[] }
  /** The accounts in the memory file, in its order. */
  | { readonly type: 'accounts'; readonly accounts: readonly Account[] }

/** To a worker, on the same stream: another program has replaced the master's, and has no copies. */
export interface ToCopier {
  readonly type: 'again'
}

/** One number of a listener, or `SERVICE_NUMBERS` of a service. */
export type Account =
  | {
      readonly kind: 'listener'
      readonly name: string
      /** Null where the service of each connection is chosen by its first bytes. */
      readonly service: string | null
      /** On a Unix socket, whose clients may have sent descriptors. */
      readonly unix: boolean
    }
  | { readonly kind: 'service'; readonly name: string }
  /**
   * Numbers of a listener whose connections are looked at: those that went to no service, by reason; those that came other than by accept, and those
   * that left. `reasons` are theirs, in order. Absent: `FIRST_REASONS`, the only ones that a worker or a master of an older version knows.
   */
  | { readonly kind: 'doorway'; readonly name: string; readonly reasons?: readonly UnroutedReason[] }

/** The content of a worker's memory file. */
export interface WorkerAccounts {
  readonly layout: readonly Account[]
  readonly numbers: Float64Array
  /**
   * For each service and doorway, in the order of the layout: connections that came from another process of the broker, and those that went to another
   * worker. Both are part of `numbers` as well, together with those that moved between a doorway and a service. Undefined if the worker is of an older
   * version, or has written nothing yet.
   */
  readonly moves: Float64Array | undefined
}

/** The same as it is in the file: the numbers, how many follow, and those of moves. */
export interface WrittenAccounts {
  readonly layout: readonly Account[]
  readonly content: readonly number[]
}

/** A worker that is finishing: what another master needs to know what it has counted. */
export interface FinishingWorker {
  readonly pid: number
  /** In clock ticks since boot; see `factsOf`. */
  readonly startedAt: string
  /** Its last report. */
  readonly snapshot: MetricSnapshot
  /** Of the numbers in its memory file, which it goes on writing. */
  readonly layout: readonly Account[]
  /** Descriptor of that file. */
  readonly file: number
}

/** Numbers of a service: its outcomes, hand-backs taken by kind, connections from another worker, and those passed to one. */
export const SERVICE_NUMBERS = OUTCOMES.length + HANDBACK_KINDS.length + 2

/** Why connections of a listener without limits go to no service. Never changed: see `Account`. */
export const FIRST_REASONS: readonly UnroutedReason[] = [
  'no_route',
  'ambiguous',
  'proxy_header',
  'client_gone',
  'shutdown',
]

/** How many numbers an account has. */
export function sizeOf(account: Account): number {
  if (account.kind === 'listener') return 1
  return account.kind === 'service' ? SERVICE_NUMBERS : (account.reasons ?? FIRST_REASONS).length + 2
}

/** How many numbers all of them have. */
export function layoutSize(layout: readonly Account[]): number {
  return layout.reduce((sum, account) => sum + sizeOf(account), 0)
}

/** Where the marks begin in the memory file; the accounts are before. */
const MARKS_AT = 1024 * 1024
const MARK_BYTES = 4
const NUMBER_BYTES = 8

/** The last number before the marks: how many pings the worker has answered here. */
const PULSE_AT = MARKS_AT - NUMBER_BYTES

/** Maximum numbers in the accounts. */
export const MAX_NUMBERS = PULSE_AT / NUMBER_BYTES

/** An answer that does not wake the master: it looks when it is awake. */
export function writePulse(file: number, count: number): void {
  writeSync(file, new Float64Array([count]), 0, NUMBER_BYTES, PULSE_AT)
}

export function readPulse(file: number): number {
  return new Float64Array(read(file, PULSE_AT, NUMBER_BYTES))[0] ?? 0
}

/** Writes a part of the marks. */
export function writeMarks(file: number, marks: Uint32Array, from: number, to: number): void {
  const bytes = Buffer.from(marks.buffer, marks.byteOffset + from * MARK_BYTES, (to - from) * MARK_BYTES)
  writeSync(file, bytes, 0, bytes.length, MARKS_AT + from * MARK_BYTES)
}

export function readMarks(file: number): Uint32Array {
  const length = Math.max(0, fstatSync(file).size - MARKS_AT)
  return new Uint32Array(read(file, MARKS_AT, length - (length % MARK_BYTES)))
}

/** No copy counts any more. */
export function clearMarks(file: number): void {
  ftruncateSync(file, MARKS_AT)
}

/** How many of them can move between workers. */
export function movesSize(layout: readonly Account[]): number {
  return 2 * layout.filter(({ kind }) => kind !== 'listener').length
}

/** The numbers of the accounts, then how many follow, then those of moves: written together, or they would contradict each other. */
export function writeNumbers(file: number, numbers: Float64Array): void {
  writeSync(file, numbers, 0, numbers.byteLength, 0)
}

export function readAccounts(file: number, layout: readonly Account[]): WorkerAccounts {
  const size = layoutSize(layout) + 1 + movesSize(layout)
  return accountsIn(layout, new Float64Array(read(file, 0, size * NUMBER_BYTES)))
}

export function accountsIn(layout: readonly Account[], all: Float64Array): WorkerAccounts {
  const size = layoutSize(layout)
  const count = movesSize(layout)
  const areWritten = count > 0 && all[size] === count
  return {
    layout,
    numbers: all.subarray(0, size),
    moves: areWritten ? all.subarray(size + 1) : undefined,
  }
}

function read(file: number, at: number, length: number): ArrayBuffer {
  const buffer = new ArrayBuffer(length)
  const bytes = new Uint8Array(buffer)
  for (let done = 0; done < length;) {
    const count = readSync(file, bytes, done, length - done, at + done)
    if (count === 0) break
    done += count
  }
  return buffer
}
