// An HTTP app that answers with its version (BATON_VERSION). While the file `bad-VERSION` is in its working directory, it answers 500, also to health
// checks (/healthz).
import { existsSync } from 'node:fs'
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const version = process.env.BATON_VERSION
const server = http.createServer((_request, response) => {
  response.statusCode = existsSync(`bad-${version}`) ? 500 : 200
  response.setHeader('x-version', version)
  response.end(version)
})
server.keepAliveTimeout = 600_000
const backend = createBackend({ logger: false })
backend.attach(server)
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
