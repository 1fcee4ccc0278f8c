import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { createBackend } from '@baton/backend-sdk'

const backend = createBackend()
// No client reaches this server. Through it, Baton learns that the process is ready, and tells it to end.
backend.attach(createServer())
const ending = new AbortController()
backend.once('drain', () => ending.abort())
await backend.ready()
process.once('SIGTERM', () => void backend.drain())

while (!ending.signal.aborted) {
  console.log('a job begins')
  await sleep(500)
  console.log('the job is done')
}
