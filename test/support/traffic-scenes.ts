import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Agent, get, type IncomingMessage, request } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Test } from 'tap'
import { bytesRead, holdsServerEnd, peakResidentBytes } from './proc.ts'
import type { Program } from './process.ts'
import type { Service } from './service.ts'
import { signal } from './signal.ts'

const MIB = 1024 * 1024

export async function relayedBytes(service: Service): Promise<number> {
  const inward = await service.metric('baton_relay_bytes_total', 'direction="in"')
  return inward + (await service.metric('baton_relay_bytes_total', 'direction="out"'))
}

/**
 * An upload and a download past the broker, on one connection of a `stream-backend.mjs`: some MiB in `test/traffic.test.ts`,
 * a GiB in `test/long/traffic.test.ts`.
 *
 * @param most maximum growth of the backend's memory, MiB
 */
export async function passBothWays(
  t: Test,
  stream: Service,
  backend: Program,
  mebibytes: number,
  most: number,
): Promise<void> {
  const { broker } = stream
  const resting = peakResidentBytes(backend.pid)
  // One connection for everything.
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const options = { host: '127.0.0.1', port: stream.port, agent }

  const first = get({ ...options, path: '/' })
  const [greeting] = (await once(first, 'response')) as [IncomingMessage]
  const clientPort = first.socket?.localPort as number
  greeting.resume()
  await once(greeting, 'end')
  await stream.until(({ inFlight }) => inFlight === 0, 'the handoff is acknowledged')
  t.ok(holdsServerEnd(backend.pid, stream.port, clientPort), 'the backend has the connection')
  t.notOk(holdsServerEnd(broker.pid, stream.port, clientPort), 'and the broker has it no more')

  await t.test('upload', async (t) => {
    const before = bytesRead(broker.pid)
    const digest = createHash('sha256')
    const upload = request({ ...options, path: '/upload', method: 'POST' })
    const response = once(upload, 'response') as Promise<[IncomingMessage]>
    await pipeline(Readable.from(numbered(mebibytes, digest), { objectMode: false }), upload)
    const [answer] = await response
    t.equal(answer.statusCode, 200)
    t.equal(answer.socket.localPort, clientPort, 'on the same connection')
    t.same(JSON.parse(await text(answer)), { bytes: mebibytes * MIB, sha256: digest.digest('hex') })
    t.ok(bytesRead(broker.pid) - before < MIB, 'the broker has read next to nothing')
  })

  await t.test('download, while the broker is stopped', async (t) => {
    signal(broker.pid, 'SIGSTOP')
    t.teardown(() => signal(broker.pid, 'SIGCONT'))
    const download = get({ ...options, path: `/download?mebibytes=${mebibytes}` })
    const [answer] = (await once(download, 'response')) as [IncomingMessage]
    const digest = createHash('sha256')
    let bytes = 0
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      bytes += chunk.length
      digest.update(chunk)
    }
    t.equal(download.socket?.localPort, clientPort, 'on the same connection')
    t.equal(bytes, mebibytes * MIB)
    t.equal(answer.trailers['x-sha256'], digest.digest('hex'))
  })

  t.equal(await relayedBytes(stream), 0)
  const grown = peakResidentBytes(backend.pid) - resting
  t.ok(grown < most * MIB, `the backend has streamed: it grew by ${Math.round(grown / MIB)} MiB`)
}

/** Blocks that differ only in their number, so that a lost, doubled or moved one is detected. */
function* numbered(mebibytes: number, digest: ReturnType<typeof createHash>): Generator<Buffer> {
  const block = randomBytes(MIB)
  for (let number = 0; number < mebibytes; number++) {
    const stamp = Buffer.from(String(number).padStart(8, '0'))
    for (const part of [stamp, block.subarray(stamp.length)]) {
      digest.update(part)
      yield part
    }
  }
}

async function text(stream: AsyncIterable<Buffer | string>): Promise<string> {
  let whole = ''
  for await (const chunk of stream) whole += chunk.toString()
  return whole
}
