// An app whose health is what stdin says, one word a line: `well` answers its checks with 200, `ill` with 503, `moved` with
// a redirect, `silent` not at all. HEALTH is what it begins with; it registers whatever it is.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

let health = process.env.HEALTH ?? 'well'

const server = http.createServer((request, response) => {
  response.setHeader('x-pid', process.pid)
  if (request.url === '/healthz?deep=1') answerCheck(request, response)
  else response.end(JSON.stringify({ pid: process.pid }))
})

function answerCheck(request, response) {
  const { listener } = backend.connection(request.socket)
  console.log(JSON.stringify({ msg: 'checked', health, listener, agent: request.headers['user-agent'] }))
  if (health === 'silent') return
  if (health === 'moved') response.setHeader('location', '/elsewhere')
  response.writeHead({ well: 200, ill: 503, moved: 307 }[health]).end()
}

const backend = createBackend()
backend.attach(server)
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
for await (const word of createInterface({ input: process.stdin })) health = word
