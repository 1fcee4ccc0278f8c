// One honest process with many backends: `join SERVICE` on stdin registers a backend, `leave SERVICE` closes it. They keep idle connections for
// longer than any test takes.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const say = (msg, service) => console.log(JSON.stringify({ msg, service, pid: process.pid }))
const backends = new Map()

async function obey(line) {
  const [command, service] = line.split(' ')
  if (command === 'join') {
    const server = http.createServer((_request, response) => response.end(String(process.pid)))
    server.keepAliveTimeout = 600_000
    const backend = createBackend({ service, logger: false })
    backends.set(service, backend)
    await backend.attach(server).ready()
    say('joined', service)
  } else {
    await backends.get(service)?.close()
    backends.delete(service)
    say('left', service)
  }
}

createInterface({ input: process.stdin }).on('line', (line) => void obey(line))
