// COUNT clients of PORT, each on a connection of its own, opened one after another. With REQUEST=early each asks as soon as it is connected. Lines on
// stdin: `ask`: each sends a request on its connection. Prints `connected` {ports, in order}, and `answered` {answered, failures} when each has its
// answer or has failed.
import { once } from 'node:events'
import net from 'node:net'
import { createInterface } from 'node:readline'

const { PORT, COUNT, REQUEST } = process.env
const request = 'GET / HTTP/1.1\r\nHost: crowd\r\n\r\n'
const say = (msg, more) => process.stdout.write(`${JSON.stringify({ msg, ...more })}\n`)

const clients = []
let left = 0
let failures = []

function ask(client) {
  if (client.failure === undefined) client.socket.write(request)
  client.waits = true
  left += 1
  if (client.failure !== undefined) settle(client)
}

/** Its request has an answer, or never will. */
function settle(client) {
  if (!client.waits) return
  client.waits = false
  left -= 1
  if (client.failure !== undefined) failures.push(client.failure)
  if (left > 0 || clients.length < Number(COUNT)) return
  say('answered', { answered: clients.length - failures.length, failures })
  failures = []
}

function end(client, failure) {
  client.failure ??= failure
  settle(client)
}

const input = createInterface({ input: process.stdin })
input.on('line', () => {
  for (const client of clients) ask(client)
})
input.once('close', () => process.exit())

while (clients.length < Number(COUNT)) {
  const socket = net.connect({ port: Number(PORT), host: '127.0.0.1', noDelay: true })
  const client = { socket, waits: false, failure: undefined, text: '' }
  socket.setEncoding('latin1')
  socket.on('data', (chunk) => {
    client.text += chunk
    const body = client.text.indexOf('\r\n\r\n') + 4
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(client.text)?.[1])
    if (body < 4 || !(client.text.length - body >= length)) return
    if (!client.text.startsWith('HTTP/1.1 200 ')) client.failure = client.text.slice(0, 12)
    client.text = ''
    settle(client)
  })
  socket.on('error', (error) => end(client, `${error.code} ${error.syscall}`))
  socket.on('close', () => end(client, 'closed'))
  await once(socket, 'connect')
  if (REQUEST === 'early') ask(client)
  clients.push(client)
}
say('connected', { ports: clients.map(({ socket }) => socket.localPort) })
