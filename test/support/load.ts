import { join } from 'node:path'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { Program, root } from './process.ts'

export interface LoadResult {
  /** Complete responses, by the pid of the backend. */
  readonly answers: Readonly<Record<string, number>>
  /** Connections without a complete response, by what happened to them. */
  readonly failures: Readonly<Record<string, number>>
  /** From connect to the end of the response, milliseconds. */
  readonly slowest: number
  readonly seconds: number
}

export interface LoadOptions {
  readonly total: number
  readonly concurrency: number
  readonly path?: string
  readonly listener?: string
}

/** Short connections from a separate process, each with one request. Settles when the last of them is over. */
export async function startLoad(t: Test, broker: Broker, options: LoadOptions): Promise<LoadResult> {
  const { total, concurrency, path = '/', listener } = options
  const args = `--port ${broker.port(listener)} --total ${total} --concurrency ${concurrency} --path ${path}`
  const program = new Program(t, process.execPath, [
    join(root, 'test/programs/connection-load.mjs'),
    ...args.split(' '),
  ])
  const { answers, failures, slowest, seconds } = await program.message('done')
  return { answers, failures, slowest, seconds } as LoadResult
}

export function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0)
}
