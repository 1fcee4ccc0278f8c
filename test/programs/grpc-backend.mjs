// A gRPC server: `whoami` answers with its pid after a while, `count` is a stream of a few messages. With KEY and CERTIFICATE (PEM files) over TLS.
import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { createBackend } from '@baton/backend-sdk'
import { Server, ServerCredentials } from '@grpc/grpc-js'

const { KEY, CERTIFICATE } = process.env
const bytes = (value) => value
const method = (path, responseStream) => ({
  path: `/test.Calls/${path}`,
  requestStream: false,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
})
const pid = Buffer.from(String(process.pid))

const server = new Server()
server.addService(
  { whoami: method('Whoami', false), count: method('Count', true) },
  {
    async whoami(call, answer) {
      await setTimeout(Number(call.request))
      answer(null, Buffer.from(`${process.pid} ${call.getPeer()}`))
    },
    async count(call) {
      for (let sent = 0; sent < 5; sent += 1) {
        call.write(pid)
        await setTimeout(Number(call.request))
      }
      call.end()
    },
  },
)

const backend = createBackend()
backend.attach(
  server,
  KEY === undefined
    ? {}
    : {
        credentials: ServerCredentials.createSsl(null, [
          { private_key: readFileSync(KEY), cert_chain: readFileSync(CERTIFICATE) },
        ]),
      },
)
await backend.ready()
if (process.env.SHUTDOWN === undefined) process.once('SIGTERM', () => void backend.drain())
else
  process.once('SIGTERM', () =>
    server.tryShutdown((error) => console.log(JSON.stringify({ msg: 'shut down', error }))),
  )
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
