import {
  type Client,
  credentials,
  makeGenericClientConstructor,
  type ServiceError,
  status,
} from '@grpc/grpc-js'
import type { Test } from 'tap'

const bytes = (value: Buffer) => value
const method = (path: string, responseStream: boolean) => ({
  path: `/test.Calls/${path}`,
  requestStream: false,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
})
const Calls = makeGenericClientConstructor(
  { whoami: method('Whoami', false), count: method('Count', true) },
  'test.Calls',
)

interface CallsClient extends Client {
  whoami(ms: Buffer, done: (error: ServiceError | null, answer: Buffer) => void): void
  count(ms: Buffer): AsyncIterable<Buffer>
}

/** A gRPC client of `grpc-backend.mjs`, as apps create it: with grpc-js' defaults, and no retry policy. */
export class GrpcCalls {
  readonly #client: CallsClient
  #stopped = false

  /** @param ca PEM of the server's certificate; undefined: without TLS */
  constructor(t: Test, address: string, ca?: Buffer) {
    const secure = ca === undefined ? credentials.createInsecure() : credentials.createSsl(ca)
    this.#client = new Calls(address, secure) as unknown as CallsClient
    t.teardown(() => this.#client.close())
  }

  /** Pid of the process that answers, and the client's address as it knows it. */
  whoami(ms: number): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#client.whoami(Buffer.from(String(ms)), (error, answer) =>
        error === null ? resolve(String(answer)) : reject(error),
      )
    })
  }

  async count(ms: number): Promise<string[]> {
    const got: string[] = []
    for await (const message of this.#client.count(Buffer.from(String(ms)))) got.push(String(message))
    return got
  }

  stop(): void {
    this.#stopped = true
  }

  /** Calls without a pause, `concurrent` at a time, until `stop`. Every fifth is a stream of messages. */
  async load(concurrent: number): Promise<{ calls: number; failed: Map<string, number>; pids: Set<string> }> {
    let calls = 0
    const failed = new Map<string, number>()
    const pids = new Set<string>()
    const loop = async (first: number) => {
      for (let at = first; !this.#stopped; at += 1) {
        calls += 1
        try {
          if (at % 5 > 0) pids.add((await this.whoami(20)).split(' ')[0] ?? '')
          else {
            const from = await this.count(20)
            if (from.length !== 5 || new Set(from).size !== 1) throw new Error(`got ${String(from)}`)
          }
        } catch (error) {
          const { code, message } = error as ServiceError
          const name = `${status[code] ?? String(code)}: ${message}`
          failed.set(name, (failed.get(name) ?? 0) + 1)
        }
      }
    }
    await Promise.all(Array.from({ length: concurrent }, (_, index) => loop(index)))
    return { calls, failed, pids }
  }
}
