import { addressOf } from './libc.ts'

/**
 * Zeroed memory that C may read and write: it has an address, and stays there.
 *
 * The bytes belong to an ArrayBuffer, whose storage is never on the moving V8 heap (that of a small typed
 * array can be). They live as long as the arena is reachable: who hands out the address keeps the arena.
 */
export class Arena {
  readonly buffer: Buffer
  /** The same bytes as 32-bit words, for the fields that are written per message. */
  readonly words: Uint32Array
  readonly address: number

  /** `size` in bytes; rounded up to whole 8-byte words. */
  constructor(size: number) {
    const memory = new ArrayBuffer(Math.ceil(size / 8) * 8)
    this.buffer = Buffer.from(memory)
    this.words = new Uint32Array(memory)
    this.address = addressOf(this.buffer)
  }

  /** Writes a pointer to `target` bytes behind this arena's own start. */
  writePointer(offset: number, target: number): void {
    this.buffer.writeBigUInt64LE(BigInt(this.address + target), offset)
  }
}

/** An arena that is made when it is first needed, so that importing costs nothing and never throws. */
export function lazyArena(size: number): () => Arena {
  let arena: Arena | undefined
  return () => (arena ??= new Arena(size))
}
