// The clients: closed loops of several kinds, all in this process. Nothing is retried. Each request has its own id,
// and every failure is sent to the parent as one message; the answers are written to a file as {u16 instance} by id.
import { writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { Random } from '../random.mjs'
import { download, exchange, lines, requests, visit, webSocket } from './client-kinds.mjs'
import { Ledger } from './client-ledger.mjs'

const { seed, clients, ports, answersPath } = JSON.parse(process.argv[2])

/** Shares of the clients, by kind and service; maximum pause between two connections, in milliseconds. */
const KINDS = [
  { run: exchange, service: 'web', share: 28, think: 60 },
  { run: exchange, service: 'carried', share: 8, think: 100 },
  { run: requests, service: 'web', share: 24, think: 40 },
  { run: requests, service: 'carried', share: 6, think: 80 },
  { run: download, service: 'web', share: 6, think: 200 },
  { run: download, service: 'carried', share: 4, think: 200 },
  { run: webSocket, service: 'web', share: 6, think: 100 },
  { run: webSocket, service: 'carried', share: 2, think: 100 },
  { run: lines, service: 'lines', share: 12, think: 60 },
  { run: visit, service: 'web', share: 2, think: 100 },
  { run: visit, service: 'lines', share: 2, think: 100 },
]

const ledger = new Ledger((failure) => process.send({ failure }))
const stop = new AbortController()

async function client(kind, number) {
  const random = new Random(seed * 1009 + number)
  while (!stop.signal.aborted) {
    await kind.run({
      service: kind.service,
      port: ports[kind.service],
      random,
      ledger,
      stopping: () => stop.signal.aborted,
    })
    await pause(random.next() * 2 * kind.think)
  }
}

process.on('message', (message) => {
  if (message === 'stop') stop.abort()
})
process.on('disconnect', () => process.exit(1))
const all = []
for (const kind of KINDS) {
  const count = Math.max(1, Math.round((clients * kind.share) / 100))
  for (let each = 0; each < count; each++) all.push(client(kind, all.length))
}
process.send({ clients: all.length })
await Promise.all(all)
writeFileSync(answersPath, ledger.answers())
process.send({ done: ledger.summary() })
process.disconnect()
