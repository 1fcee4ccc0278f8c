import { NativeError, type OwnedFd } from '@baton/native-sendmsg'
import type { Copy } from '../../ipc/copies.ts'
import { errnoOf } from '../../config/error.ts'
import type { CopyStore, StoredCopies } from '../workers/copy-store.ts'
import type { FdStore } from './fd-store.ts'
import { type Place, Records } from './records.ts'
import { formatName } from './stored-names.ts'

/** Minimum age of a copy, in ms: storing it costs the service manager more than the copy has cost this process. */
const DELAY_MS = 100

interface Entry {
  readonly worker: string
  readonly copy: Copy
  readonly fd: OwnedFd
  readonly reachable: boolean
  readonly since: number
  /** Once it is stored. */
  stored: { readonly name: string; readonly place: Place } | undefined
}

/**
 * The copies of waiting connections in the service manager's store. A connection is stored with a name that says where its record is; the memory file with
 * the marks is stored as well, and decides about each, as for the master's own copies (`ipc/copies.ts`).
 */
export class WaitingStore implements CopyStore {
  readonly #store: FdStore
  #records: Records | undefined
  /** Not stored yet, in order of age. */
  readonly #young = new Set<Entry>()
  #timer: NodeJS.Timeout | undefined

  constructor(store: FdStore) {
    this.#store = store
  }

  of(worker: string, file: OwnedFd): StoredCopies {
    /** By slot. */
    const entries = new Map<number, Entry>()
    const marks = formatName({ kind: 'marks', worker })
    const remove = (entry: Entry) => {
      this.#young.delete(entry)
      if (entry.stored === undefined) return
      this.#store.remove(entry.stored.name)
      this.#records?.release(entry.stored.place)
    }
    return {
      add: (copy, fd, reachable) => {
        if (this.#store.absent) return
        const before = entries.get(copy.slot)
        if (before !== undefined) remove(before)
        if (!this.#store.has(marks)) this.#store.put(marks, file)
        const entry: Entry = { worker, copy, fd, reachable, since: performance.now(), stored: undefined }
        entries.set(copy.slot, entry)
        this.#young.add(entry)
        this.#arm()
      },
      remove: (copy) => {
        const entry = entries.get(copy.slot)
        if (entry?.copy.number !== copy.number) return
        entries.delete(copy.slot)
        remove(entry)
      },
      close: () => {
        for (const entry of entries.values()) remove(entry)
        entries.clear()
        this.#store.remove(marks)
      },
    }
  }

  /** How many connections are to be stored once they are old enough. */
  get young(): number {
    return this.#young.size
  }

  /** Without waiting until they are old enough. */
  flush(): void {
    for (const entry of this.#young) this.#put(entry)
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#young.clear()
    this.#records?.file.close()
  }

  #arm(): void {
    const [first] = this.#young
    if (this.#timer !== undefined || first === undefined) return
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        const latest = performance.now() - DELAY_MS
        for (const entry of this.#young) {
          if (entry.since > latest) break
          this.#put(entry)
        }
        this.#arm()
      },
      Math.max(1, first.since + DELAY_MS - performance.now()),
    ).unref()
  }

  #put(entry: Entry): void {
    this.#young.delete(entry)
    const { worker, copy, fd, reachable } = entry
    try {
      this.#records ??= this.#open()
      const { id } = this.#records
      const place = this.#records.write({ worker, copy, reachable })
      const { slot, number } = copy
      const name = formatName({ kind: 'waiting', worker, slot, number, records: id, offset: place.offset })
      entry.stored = { name, place }
      this.#store.put(name, fd)
    } catch (error) {
      // No memory, or no free descriptor: it is not stored.
      if (!(error instanceof NativeError) && errnoOf(error) === undefined) throw error
    }
  }

  /** Before the first connection that needs it. */
  #open(): Records {
    const records = new Records()
    this.#store.put(formatName({ kind: 'records', id: records.id }), records.file)
    return records
  }
}
