import { CLOCK_MONOTONIC } from './abi.ts'
import { lazyArena } from './arena.ts'
import { NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const time = lazyArena(16)

/**
 * CLOCK_MONOTONIC in nanoseconds, which all processes of a host share (clock_gettime(2)). `process.hrtime.bigint()` is the same in Node, and
 * counts from the start of the process in Bun and Deno.
 */
export function monotonicTime(): bigint {
  const arena = time()
  if (libc.clock_gettime(CLOCK_MONOTONIC, arena.address) === -1)
    throw new NativeError('clock_gettime', lastErrno())
  return arena.buffer.readBigInt64LE(0) * 1_000_000_000n + arena.buffer.readBigInt64LE(8)
}
