/** `word` is an address or a size; `string` is a C string. */
export type Kind = 'int' | 'word' | 'string'
export type Value = number | string
export type ForeignFunction = (...values: Value[]) => number

/**
 * Treatment of a failed call:
 *
 * - `final`: errno is taken from that call.
 * - `repeatable`: its failure has no effect, so it may be called again to get errno. If the second call succeeds, its result is returned.
 * - `silent`: `lastErrno` is not set.
 */
export type Failure = 'final' | 'repeatable' | 'silent'

/** A library that calls C functions of this process by name. */
export interface ForeignFunctions {
  /** Returns what the C function returns; if that is -1, `failed` has been called with errno. The function is looked up at its first call. */
  bind(name: string, result: 'int' | 'word', kinds: readonly Kind[], failure: Failure): ForeignFunction
  /** Runs on a thread of libuv's pool. Resolves to what the C function returns, or to -errno if that is -1. */
  onThread(name: string, kinds: readonly Kind[], values: readonly Value[]): Promise<number>
  /** Address of a buffer's first byte. The caller ensures that the memory does not move (see `Arena`). */
  addressOf(buffer: Buffer): number
}

export type Failed = (errno: number) => void
