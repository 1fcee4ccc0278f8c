import { createHash } from 'node:crypto'
import { type Address, formatAddress } from '../../config/address.ts'

/**
 * Names of the descriptors that the service manager keeps for the next start (FDNAME). Those of a listener have letters, digits, `-` and `_`, so
 * none of them is like these. At most 255 characters, without `:`.
 */
const PREFIX = 'baton.'

/** A listening socket, by the address that the configuration had for it. */
export interface ListeningName {
  readonly kind: 'listening'
  /** Of the listener, or `admin`. */
  readonly name: string
  readonly address: string
}

/** A connection that waits: its copy, and where the record of it is. */
export interface WaitingName {
  readonly kind: 'waiting'
  /** See `workerKey`. */
  readonly worker: string
  readonly slot: number
  readonly number: number
  /** Id of the memory file with the record. */
  readonly records: string
  /** Of the record in that file, in bytes. */
  readonly offset: number
}

export type StoredName =
  | ListeningName
  | WaitingName
  /** The memory file with the marks of a worker's copies. */
  | { readonly kind: 'marks'; readonly worker: string }
  /** The memory file with the records of the connections. */
  | { readonly kind: 'records'; readonly id: string }
  /** To find out whether the manager keeps anything. */
  | { readonly kind: 'probe' }

/** Stands for an address, which may have characters that a name must not have. */
export function addressWord(address: Address): string {
  return createHash('sha256').update(formatAddress(address)).digest('hex').slice(0, 16)
}

export function formatName(name: StoredName): string {
  if (name.kind === 'probe') return `${PREFIX}probe`
  if (name.kind === 'marks') return `${PREFIX}marks.${name.worker}`
  if (name.kind === 'records') return `${PREFIX}records.${name.id}`
  if (name.kind === 'listening') return `${PREFIX}listening.${name.name}.${name.address}`
  const { worker, slot, number, records, offset } = name
  return `${PREFIX}waiting.${worker}.${slot}.${number}.${records}.${offset}`
}

/** Undefined if it is none of these. */
export function parseName(text: string): StoredName | undefined {
  if (!text.startsWith(PREFIX)) return undefined
  const [kind, first = '', second = '', third = '', fourth = '', fifth = ''] = text
    .slice(PREFIX.length)
    .split('.')
  if (kind === 'probe') return { kind }
  if (kind === 'marks') return { kind, worker: first }
  if (kind === 'records') return { kind, id: first }
  if (kind === 'listening') return { kind, name: first, address: second }
  if (kind !== 'waiting') return undefined
  return {
    kind,
    worker: first,
    slot: Number(second),
    number: Number(third),
    records: fourth,
    offset: Number(fifth),
  }
}
