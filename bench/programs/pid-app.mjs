// A managed app that answers with its pid. At its end it appends the number of connections that it has adopted to the file ADOPTED.
import { appendFileSync } from 'node:fs'
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const server = http.createServer((_request, response) => response.end(`${process.pid}\n`))
// Only the client ends a connection: any other end is a finding.
server.keepAliveTimeout = 0
let adopted = 0
const backend = createBackend({ logger: false })
backend.attach(server)
backend.on('adopt', () => (adopted += 1))
process.once('exit', () => appendFileSync(process.env.ADOPTED, `${adopted}\n`))
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
