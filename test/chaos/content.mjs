import { Random } from './random.mjs'

const SIZE = 65_536
const random = new Random(1)
const block = Buffer.from(Array.from({ length: SIZE }, () => random.integer(0, 255)))

/**
 * `length` bytes of the download `id`, from `offset` on: each download begins at a different place in the same block, so a byte
 * that is lost, doubled, moved, or from another download is detected.
 */
export function content(id, offset, length) {
  const parts = []
  for (let from = (id * 977 + offset) % SIZE, left = length; left > 0; from = 0) {
    const part = block.subarray(from, Math.min(SIZE, from + left))
    parts.push(part)
    left -= part.length
  }
  return parts.length === 1 ? parts[0] : Buffer.concat(parts)
}
