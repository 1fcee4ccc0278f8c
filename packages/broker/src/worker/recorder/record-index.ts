const ID_BYTES = 16
const ID_WORDS = ID_BYTES / 4

/** A slot that is not listed. */
const ABSENT = -2
/** The end of a list. */
const NONE = -1

/** Maximum records compared for one lookup. Ids come back from backends, which could choose them to fill one list. */
const MAX_COMPARED = 32

/** Finds the slot of a connection's record by its id: a hash table with a list for each bucket, in columns. */
export class RecordIndex {
  /** The ids of all slots; those of slots that are not listed mean nothing. */
  readonly ids: Buffer
  readonly #words: Int32Array
  readonly #mask: number
  /** By bucket: the newest slot. */
  readonly #first: Int32Array
  readonly #next: Int32Array
  readonly #previous: Int32Array

  constructor(capacity: number) {
    const words = new Int32Array(capacity * ID_WORDS).fill(-1)
    this.#words = words
    this.ids = Buffer.from(words.buffer)
    const buckets = 2 ** Math.ceil(Math.log2(capacity))
    this.#mask = buckets - 1
    this.#first = new Int32Array(buckets).fill(NONE)
    this.#next = new Int32Array(capacity).fill(NONE)
    this.#previous = new Int32Array(capacity).fill(ABSENT)
  }

  /** The 16 bytes of a slot's id. */
  idOf(slot: number): Buffer {
    return this.ids.subarray(slot * ID_BYTES, (slot + 1) * ID_BYTES)
  }

  /** Lists a slot that is not listed. */
  add(slot: number, id: Uint8Array): void {
    const at = slot * ID_BYTES
    for (let byte = 0; byte < ID_BYTES; byte++) this.ids[at + byte] = id[byte] as number
    const bucket = this.#bucketOf(slot)
    const second = this.#first[bucket] as number
    this.#first[bucket] = slot
    this.#next[slot] = second
    this.#previous[slot] = NONE
    if (second !== NONE) this.#previous[second] = slot
  }

  /** The slot will be used for another connection. */
  remove(slot: number): void {
    const previous = this.#previous[slot] as number
    if (previous === ABSENT) return
    const next = this.#next[slot] as number
    if (previous === NONE) this.#first[this.#bucketOf(slot)] = next
    else this.#next[previous] = next
    if (next !== NONE) this.#previous[next] = previous
    this.#previous[slot] = ABSENT
  }

  /** The newest slot with this id; undefined if there is none. */
  find(id: Uint8Array): number | undefined {
    const view = new DataView(id.buffer, id.byteOffset, ID_BYTES)
    const words = this.#words
    const [a, b, c, d] = [
      view.getInt32(0, true),
      view.getInt32(4, true),
      view.getInt32(8, true),
      view.getInt32(12, true),
    ]
    let slot = this.#first[d & this.#mask] as number
    for (let compared = 0; slot !== NONE && compared < MAX_COMPARED; compared++) {
      const at = slot * ID_WORDS
      if (words[at] === a && words[at + 1] === b && words[at + 2] === c && words[at + 3] === d) return slot
      slot = this.#next[slot] as number
    }
    return undefined
  }

  /** The last bytes of an id are random (connection-id.ts). */
  #bucketOf(slot: number): number {
    return (this.#words[slot * ID_WORDS + ID_WORDS - 1] as number) & this.#mask
  }
}
