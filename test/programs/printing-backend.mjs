// An HTTP app that prints: `/print?from=1&count=1000` prints numbered lines and answers when they are written, `/err` prints to standard error, `/half` begins a
// line, `/rest` ends it, and `/die` begins a line and ends the process in the middle of it.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

/** Lines between two turns of the event loop. */
const BURST = 500

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  const number = (name) => Number(searchParams.get(name))
  response.setHeader('connection', 'close')
  const end = () => response.end(String(process.pid))
  if (pathname === '/print') return print(number('from'), number('from') + number('count'), end)
  if (pathname === '/err') process.stderr.write('an error\n')
  if (pathname === '/half') process.stdout.write('half a line')
  if (pathname === '/rest') process.stdout.write(', and its rest\n')
  if (pathname === '/die') process.stdout.write('the last words', () => process.kill(process.pid, 'SIGKILL'))
  else end()
})

function print(from, to, done) {
  let text = ''
  const stop = Math.min(to, from + BURST)
  for (let line = from; line < stop; line++) text += `line ${line} ${'x'.repeat(line % 100)}\n`
  process.stdout.write(text, () => (stop < to ? setImmediate(print, stop, to, done) : done()))
}

const backend = createBackend()
backend.attach(server)
// Before it is ready: whoever sees it registered knows that it has printed this.
console.log('ready')
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
