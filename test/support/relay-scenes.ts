import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import { Readable } from 'node:stream'
import type { Test } from 'tap'
import { bytesRead, bytesWritten, residentBytes } from './proc.ts'
import type { Service } from './service.ts'

const MIB = 1024 * 1024

/**
 * Maximum that the broker may have read and not written yet: twice what the two stalled relays need. Each keeps what the kernel did not take
 * of one read of 256 KiB.
 */
const MAX_QUEUED = MIB

/**
 * Maximum growth of a broker's memory. Most of it is not queued: each read of Node's streams allocates a chunk, which is freed by the
 * next garbage collection after it was written. Chunks are too few objects to cause one soon, so V8 counts their bytes, and begins
 * to mark at 64 MiB (`kExternalAllocationSoftLimit`), however many bytes are relayed. How near that comes depends on Node: a bare
 * `pipe` of 512 MiB, with the broker's young generation and 60 KiB queued at most, reaches 39 MiB of chunks on 20.20.2, 46 on 22.23.5,
 * 69 on 24.22.3 and 67 on 26.12.1. The rest is for what arrives while V8 marks; a relay that kept its chunks would exceed it with the
 * 128 MiB of the smallest scene.
 */
const MAX_GROWTH = 96 * MIB

/** MiB offered by the sender of a stalled relay: a broker that went on reading would queue a hundred or more of them by the end. */
const OFFERED = 256

/**
 * An upload and a download through a relay of a `stream-backend.mjs`: some MiB in `test/relay.test.ts`, a hundred in
 * `test/long/relay.test.ts`. Beside them are two relays whose receivers read nothing, and whose senders must wait for that.
 *
 * @param size of each, MiB
 */
export async function relayBothWays(t: Test, service: Service, size: number): Promise<void> {
  const { pid } = service.broker
  const queued = () => bytesRead(pid) - bytesWritten(pid)
  const resting = { memory: residentBytes(pid), queued: queued() }
  await stallBothWays(t, service)

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

  const kept = queued() - resting.queued
  t.ok(kept < MAX_QUEUED, `the broker holds ${(kept / MIB).toFixed(1)} MiB that it has read and not written`)
  const grown = residentBytes(pid) - resting.memory
  t.ok(grown < MAX_GROWTH, `the broker grew by ${(grown / MIB).toFixed(1)} MiB`)
}

/** An upload that the backend does not read, and a download that the client does not read, until the end of the test. */
async function stallBothWays(t: Test, service: Service): Promise<void> {
  const upload = http.request(service.url('/unread'), {
    method: 'POST',
    headers: { 'transfer-encoding': 'chunked' },
  })
  Readable.from(Array.from({ length: OFFERED }, () => zeros)).pipe(upload)
  const download = http.get(service.url(`/download?mebibytes=${OFFERED}`))
  for (const request of [upload, download]) {
    t.teardown(() => request.destroy())
    await once(request, 'response')
    request.on('error', () => undefined)
  }
}

const zeros = Buffer.alloc(MIB)
