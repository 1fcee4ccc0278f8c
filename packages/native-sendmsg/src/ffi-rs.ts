import type * as Ffi from 'ffi-rs'
import type { Failed, Failure, ForeignFunction, ForeignFunctions, Kind, Value } from './foreign-function.ts'

const LIBRARY = 'baton:libc'

interface Call<E extends boolean> extends Ffi.FFIParams<Ffi.DataType.I32 | Ffi.DataType.I64, E> {
  paramsValue: Value[]
}

/**
 * Through ffi-rs. A call takes 3 to 8 us: the library reads its description from JavaScript properties each time. Passing numbers in a call object
 * that is built once costs half as much as `define` with Buffers (3.9 us instead of 7.9 us for a recv). Fetching errno costs a fifth of a call (an
 * object, and the error text).
 *
 * @throws what loading the library throws
 */
export function throughFfiRs(load: NodeJS.Require, failed: Failed): ForeignFunctions {
  const ffi = load('ffi-rs') as typeof Ffi
  const { DataType } = ffi
  // An empty path is dlopen(NULL): the running program, including its libc (glibc or musl).
  ffi.open({ library: LIBRARY, path: '' })

  function describe<E extends boolean>(
    name: string,
    result: 'int' | 'word',
    kinds: readonly Kind[],
    errno: E,
  ): Call<E> {
    const types = { int: DataType.I32, word: DataType.I64, string: DataType.String }
    return {
      library: LIBRARY,
      funcName: name,
      retType: result === 'int' ? DataType.I32 : DataType.I64,
      paramsType: kinds.map((kind) => types[kind]),
      paramsValue: [],
      errno,
      freeResultMemory: false,
    }
  }

  function withErrno(name: string, result: 'int' | 'word', kinds: readonly Kind[]): ForeignFunction {
    const call = describe(name, result, kinds, true)
    return (...values) => {
      call.paramsValue = values
      const outcome = ffi.load<Call<true>['retType'], true>(call)
      if (outcome.value === -1) failed(outcome.errnoCode)
      return outcome.value
    }
  }

  function withoutErrno(name: string, result: 'int' | 'word', kinds: readonly Kind[]): ForeignFunction {
    const call = describe(name, result, kinds, false)
    return (...values) => {
      call.paramsValue = values
      return ffi.load<Call<false>['retType'], false>(call)
    }
  }

  return {
    bind(name, result, kinds, failure: Failure) {
      if (failure === 'final') return withErrno(name, result, kinds)
      const call = withoutErrno(name, result, kinds)
      if (failure === 'silent') return call
      const callAgain = withErrno(name, result, kinds)
      return (...values) => {
        const value = call(...values)
        return value === -1 ? callAgain(...values) : value
      }
    },
    async onThread(name, kinds, values) {
      const call = { ...describe(name, 'int', kinds, true), paramsValue: [...values] }
      const outcome = await ffi.load<Call<true>['retType'], true, true>({ ...call, runInNewThread: true })
      return outcome.value === -1 ? -outcome.errnoCode : outcome.value
    },
    addressOf: (buffer) =>
      ffi.load({
        library: LIBRARY,
        // memmove(3) returns its first argument; 0 bytes are moved.
        funcName: 'memmove',
        retType: DataType.I64,
        paramsType: [DataType.U8Array, DataType.U8Array, DataType.I64],
        paramsValue: [buffer, buffer, 0],
      }),
  }
}
