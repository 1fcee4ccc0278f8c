// The example in docs/how-to/event-streams.md.
import { createServer, type ServerResponse } from 'node:http'
import { createBackend } from '@baton/backend-sdk'
import { migrateEventStreams } from '@baton/backend-sdk/event-streams'

/** The rest of the app: news with numbers, which are kept for a while, in Redis for example. */
interface Item {
  id: number
  text: string
}
declare const news: {
  /** Returns what ends it. */
  subscribe(listener: (item: Item) => void): () => void
  /** The items behind a number. */
  since(last: number): Item[]
  /** Number of the newest. */
  newest(): number
}

const backend = createBackend({ service: 'news' })

/** The readers that are connected. */
interface Reader {
  /** Number of the last item that was sent. */
  last: number
  send(item: Item): void
  begin(): void
}
const readers = new WeakMap<ServerResponse, Reader>()

const server = createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
  let stop = () => {}
  const reader: Reader = {
    last: Number(request.headers['last-event-id'] ?? news.newest()),
    send({ id, text }) {
      reader.last = id
      response.write(`id: ${id}\ndata: ${text}\n\n`)
    },
    begin() {
      for (const item of news.since(reader.last)) reader.send(item)
      stop = news.subscribe((item) => reader.send(item))
    },
  }
  readers.set(response, reader)
  if (backend.connection(request.socket)?.resumed === undefined) {
    response.write(': welcome\n\n')
    reader.begin()
  }
  response.on('close', () => {
    stop()
    if (backend.connection(request.socket)?.movedOn) return // the reader is still there
    console.log('a reader has left')
  })
})

backend.attach(server)
migrateEventStreams(server, backend, {
  schema: 'news/1',
  state: (response) => {
    const reader = readers.get(response)
    return reader && { last: reader.last }
  },
  resume: (response, { last }) => {
    const reader = readers.get(response)
    if (reader === undefined) return
    reader.last = last
    reader.begin() // with what was published while it moved
  },
})

await backend.ready()
process.once('SIGTERM', () => void backend.drain())
