import { randomBytes } from 'node:crypto'
import { fstatSync, readSync, writeSync } from 'node:fs'
import { createMemoryFile, type OwnedFd } from '@baton/native-sendmsg'
import type { Copy } from '../../ipc/copies.ts'

/** Everything that the next start must know about a stored connection. */
export interface StoredRecord {
  /** See `workerKey`. */
  readonly worker: string
  readonly copy: Copy
  readonly reachable: boolean
}

/** Where a record is. */
export interface Place {
  readonly offset: number
  readonly size: number
}

const LENGTH_BYTES = 4

/** Sizes of places are this many bytes, or a power of two more. */
const SMALLEST = 512

/** A memory file with a record for each stored connection. Places are used again. */
export class Records {
  readonly id = randomBytes(6).toString('hex')
  readonly file: OwnedFd
  #end = 0
  /** By size. */
  readonly #free = new Map<number, number[]>()

  /** @throws {NativeError} */
  constructor() {
    this.file = createMemoryFile('baton-stored-records')
  }

  /** @throws {Error} there is no memory for it */
  write(record: StoredRecord): Place {
    const text = Buffer.from(JSON.stringify(record))
    const bytes = Buffer.alloc(LENGTH_BYTES + text.length)
    bytes.writeUInt32LE(text.length)
    text.copy(bytes, LENGTH_BYTES)
    const size = SMALLEST * 2 ** Math.max(0, Math.ceil(Math.log2(bytes.length / SMALLEST)))
    const free = this.#free.get(size)?.pop()
    const offset = free ?? this.#end
    if (free === undefined) this.#end += size
    for (let at = 0; at < bytes.length;)
      at += writeSync(this.file.fd, bytes, at, bytes.length - at, offset + at)
    return { offset, size }
  }

  /** Its connection is stored no more. */
  release({ offset, size }: Place): void {
    const free = this.#free.get(size)
    if (free === undefined) this.#free.set(size, [offset])
    else free.push(offset)
  }
}

/** Undefined if there is none at `offset`: the file may be of a version that writes them differently. */
export function readRecord(file: number, offset: number): StoredRecord | undefined {
  try {
    const length = readAt(file, offset, LENGTH_BYTES).readUInt32LE()
    if (length > fstatSync(file).size) return undefined
    return JSON.parse(readAt(file, offset + LENGTH_BYTES, length).toString()) as StoredRecord
  } catch {
    return undefined
  }
}

function readAt(file: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length;) {
    const count = readSync(file, bytes, at, length - at, offset + at)
    if (count === 0) break
    at += count
  }
  return bytes
}
