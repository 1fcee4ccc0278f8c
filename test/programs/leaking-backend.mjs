// An app that leaks: LEAK_MB megabytes each second, and as many as asked for at /grow?mb=N. START_MB: from the start.
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const MEGABYTE = 1024 * 1024
const leaked = []
/** Touched, so that it is resident. */
const leak = (megabytes) => void (megabytes > 0 && leaked.push(Buffer.alloc(megabytes * MEGABYTE, 1)))
leak(Number(process.env.START_MB ?? 0))

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  if (pathname === '/grow') leak(Number(searchParams.get('mb')))
  response.setHeader('x-pid', process.pid)
  response.end(JSON.stringify({ pid: process.pid, secret: process.env.SECRET ?? null }))
})
server.keepAliveTimeout = 600_000
const backend = createBackend({ logger: false })
backend.attach(server)
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
const rate = Number(process.env.LEAK_MB ?? 0)
if (rate > 0) setInterval(() => leak(rate / 5), 200).unref()
