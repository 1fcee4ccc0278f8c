// One process with many apps whose health is set on stdin: `join APP SERVICE HEALTH` registers one, `tell APP HEALTH` changes it,
// and `leave APP` removes it. HEALTH: `well` answers checks with 200, `ill` with 503, `hiccup` with 503 once and then
// with 200, `moved` with a redirect, `silent` not at all. Responses (`x-app`) and output carry the name APP.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const apps = new Map()
const say = (msg, more) => console.log(JSON.stringify({ msg, ...more }))

const commands = {
  async join(app, service, health) {
    const server = http.createServer((request, response) => {
      response.setHeader('x-app', app)
      if (request.url === '/healthz?deep=1') answerCheck(app, request, response)
      else response.end('{}')
    })
    const backend = createBackend({ service, logger: false })
    apps.set(app, { backend, health })
    await backend.attach(server).ready()
    say(`${app} joined`, { id: backend.id })
  },
  tell(app, health) {
    apps.get(app).health = health
  },
  async leave(app) {
    await apps.get(app).backend.close()
    apps.delete(app)
    say(`${app} left`)
  },
}

function answerCheck(app, request, response) {
  const state = apps.get(app)
  const { health } = state
  const { listener } = state.backend.connection(request.socket)
  say('checked', { app, health, listener, agent: request.headers['user-agent'] })
  if (health === 'silent') return
  if (health === 'moved') response.setHeader('location', '/elsewhere')
  if (health === 'hiccup') state.health = 'well'
  response.writeHead({ well: 200, ill: 503, hiccup: 503, moved: 307 }[health]).end()
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const [command, ...words] = line.split(' ')
  void commands[command](...words)
})
say('started')
