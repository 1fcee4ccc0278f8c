import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import type { Test } from 'tap'
import { residentBytes } from './proc.ts'
import type { Service } from './service.ts'

const MIB = 1024 * 1024

/**
 * An upload and a download through a relay of a `stream-backend.mjs`: some MiB in `test/relay.test.ts`, a hundred in
 * `test/long/relay.test.ts`.
 *
 * @param size of each, MiB
 * @param most maximum growth of the broker's memory, MiB
 */
export async function relayBothWays(t: Test, service: Service, size: number, most: number): Promise<void> {
  const rss = () => residentBytes(service.broker.pid)
  const resting = rss()

  const request = http.request(service.url('/upload'), {
    method: 'POST',
    headers: { 'transfer-encoding': 'chunked' },
  })
  const block = randomBytes(MIB)
  const digest = createHash('sha256')
  const answered = once(request, 'response') as Promise<[http.IncomingMessage]>
  for (let each = 0; each < size; each++) {
    block.writeUInt32LE(each)
    digest.update(block)
    if (!request.write(Buffer.from(block))) await once(request, 'drain')
  }
  request.end()
  const [response] = await answered
  t.same(JSON.parse(Buffer.concat(await response.toArray()).toString()), {
    bytes: size * MIB,
    sha256: digest.digest('hex'),
  })

  const [download] = (await once(http.get(service.url(`/download?mebibytes=${size}`)), 'response')) as [
    http.IncomingMessage,
  ]
  const received = createHash('sha256')
  let bytes = 0
  for await (const chunk of download as AsyncIterable<Buffer>) {
    bytes += chunk.length
    received.update(chunk)
  }
  t.equal(bytes, size * MIB)
  t.equal(received.digest('hex'), download.trailers['x-sha256'])
  const grown = rss() - resting
  t.ok(grown < most * MIB, `the broker grew by ${(grown / MIB).toFixed(1)} MiB`)
}
