const KIB = 1024

/** Blocks of one size, by their use: the one that was given back last, which the processor still has in its cache, is taken first. */
interface Store {
  readonly size: number
  /** How many are kept for later: 4 MiB of each size. One is enough while all receivers are fast. */
  readonly maxSpare: number
  readonly spare: Buffer[]
}

const STORES: readonly Store[] = [
  { size: 64 * KIB, maxSpare: 64, spare: [] },
  { size: 256 * KIB, maxSpare: 16, spare: [] },
]

/** Memory that is used again, because new memory costs more than a copy. */
export interface Block {
  readonly bytes: Buffer
  /** Once, after which `bytes` are not valid any more. */
  giveBack(): void
}

/** @param bytes 256 KiB at most */
export function copyToBlock(bytes: Buffer): Block {
  const store = STORES.find(({ size }) => size >= bytes.length)
  if (store === undefined) throw new RangeError(`${bytes.length} bytes`)
  const { size, maxSpare, spare } = store
  const whole = spare.pop() ?? Buffer.allocUnsafeSlow(size)
  bytes.copy(whole)
  return {
    bytes: whole.subarray(0, bytes.length),
    giveBack: () => {
      if (spare.length < maxSpare) spare.push(whole)
    },
  }
}
