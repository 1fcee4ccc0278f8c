import { createServer } from 'node:http'
import { createBackend } from '@baton/backend-sdk'

const greeting = process.env.GREETING ?? 'Hello'
const server = createServer((request, response) => response.end(`${greeting} from process ${process.pid}\n`))

const backend = createBackend()
// Instead of `server.listen()`: the broker has the port, and this server gets the connections.
backend.attach(server)
// Instead of `process.send('ready')`.
await backend.ready()
// Instead of SIGINT and `server.close()`: idle connections move to another process, and nothing is cut.
process.once('SIGTERM', () => void backend.drain())
