// COUNT backends in one process, each with its own server; prints how many are registered on every change.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const silent = { info() {}, warn() {}, error() {} }
const registered = new Set()
const say = () => console.log(JSON.stringify({ msg: 'registered', count: registered.size }))

for (let index = 0; index < Number(process.argv[2]); index++) {
  const backend = createBackend({ logger: silent })
  backend.attach(http.createServer((_request, response) => response.end(String(process.pid))))
  backend.on('connected', () => {
    registered.add(index)
    say()
  })
  backend.on('disconnected', () => {
    if (backend.state === 'registered') return
    registered.delete(index)
    say()
  })
  void backend.ready()
}
