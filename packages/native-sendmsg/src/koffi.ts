import type * as Koffi from 'koffi'
import type { Failed, ForeignFunctions, Kind, Value } from './foreign-function.ts'

/** Maximum calls on threads at a time; others wait. koffi refuses more than 256, and libuv has four threads unless it is told otherwise. */
const MAX_CALLS_ON_THREADS = 128

const TYPES = { int: 'int', word: 'intptr_t', string: 'str' } as const

/**
 * Through koffi. A call takes 0.25 us: the function and its types are looked up once.
 *
 * @throws what loading the library throws
 */
export function throughKoffi(load: NodeJS.Require, failed: Failed): ForeignFunctions {
  const koffi = load('koffi') as typeof Koffi
  // dlopen(NULL): the running program, including its libc (glibc or musl).
  const library = koffi.load(null)
  const describe = (name: string, result: 'int' | 'word', kinds: readonly Kind[]) =>
    library.func(
      name,
      TYPES[result],
      kinds.map((kind) => TYPES[kind]),
    )
  const onThreads = new Map<string, ReturnType<typeof describe>>()
  const waiting: (() => void)[] = []
  let running = 0

  return {
    bind(name, result, kinds, failure) {
      const call = describe(name, result, kinds) as (...values: Value[]) => number
      if (failure === 'silent') return call
      return (...values) => {
        const value = call(...values)
        // Before anything else runs on this thread that could change it.
        if (value === -1) failed(koffi.errno())
        return value
      }
    },
    onThread(name, kinds, values) {
      const call = onThreads.get(name) ?? describe(name, 'int', kinds)
      onThreads.set(name, call)
      return new Promise((resolve, reject) => {
        const start = () => {
          running += 1
          call.async(...values, (error: Error | null, result: number) => {
            running -= 1
            if (error !== null) reject(error)
            // koffi brings the errno of the thread along.
            else resolve(result === -1 ? -koffi.errno() : result)
            waiting.shift()?.()
          })
        }
        if (running < MAX_CALLS_ON_THREADS) start()
        else waiting.push(start)
      })
    },
    addressOf: (buffer) => Number(koffi.address(buffer)),
  }
}
