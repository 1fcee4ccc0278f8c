// A managed app that answers with its pid, and appends each adoption, and each hand-back, to the file ADOPTIONS: `PID PORT TIME adopted|returned`, milliseconds of CLOCK_MONOTONIC, with write(2)
// before the app sees the connection.
import { openSync, writeSync } from 'node:fs'
import http from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const adoptions = openSync(process.env.ADOPTIONS, 'a')
const body = `${process.pid}\n`
const headers = { 'content-length': body.length }
const server = http.createServer((_request, response) => {
  response.writeHead(200, headers)
  response.end(body)
})
server.keepAliveTimeout = 0
const backend = createBackend({ logger: false })
backend.attach(server)
const note = (port, what) =>
  writeSync(adoptions, `${process.pid} ${port} ${Number(process.hrtime.bigint()) / 1e6} ${what}\n`)
backend.on('adopt', (socket, connection) => {
  const { remotePort } = socket
  note(remotePort, 'adopted')
  socket.once('close', () => connection.movedOn && note(remotePort, 'returned'))
})
await backend.ready()
process.once('SIGTERM', () => void backend.drain())
