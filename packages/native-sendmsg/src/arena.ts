import { addressOf } from './libc.ts'

/**
 * Zeroed memory at a fixed address, which C may read and write.
 *
 * The bytes belong to an ArrayBuffer, whose storage is never on the moving V8 heap (that of a small typed
 * array can be). They live as long as the arena is reachable, so code that passes on the address must keep the arena.
 */
export class Arena {
  readonly buffer: Buffer
  /** The same bytes as 32-bit words, for fields that are written for every message. */
  readonly words: Uint32Array
  readonly address: number

  /** `size` in bytes; rounded up to whole 8-byte words. */
  constructor(size: number) {
    const memory = new ArrayBuffer(Math.ceil(size / 8) * 8)
    this.buffer = Buffer.from(memory)
    this.words = new Uint32Array(memory)
    this.address = addressOf(this.buffer)
  }

  /** Writes, at `offset`, a pointer to the byte at `target`; both are relative to the start of this arena. */
  writePointer(offset: number, target: number): void {
    this.buffer.writeBigUInt64LE(BigInt(this.address + target), offset)
  }
}

/** An arena that is created on first use, so that importing costs nothing and never throws. */
export function lazyArena(size: number): () => Arena {
  let arena: Arena | undefined
  return () => (arena ??= new Arena(size))
}
