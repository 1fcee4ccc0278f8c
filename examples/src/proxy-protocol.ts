// An HTTP app behind a load balancer that sends PROXY protocol version 2. The broker reads no client data, so the header arrives
// here as the first bytes of the connection, and is removed before the HTTP parser reads it.
import { once } from 'node:events'
import { createServer } from 'node:http'
import { BlockList, isIPv4, type Socket } from 'node:net'
import { createBackend } from '@baton/backend-sdk'
import { decodeProxyHeader } from '@baton/backend-sdk/protocol'

/** The header determines the client's address, so only load balancers may send it; other connections are cut. */
const balancers = new BlockList()
for (const address of (process.env['BALANCERS'] ?? '127.0.0.1').split(','))
  balancers.addAddress(address, isIPv4(address) ? 'ipv4' : 'ipv6')

/** Time limit in ms. A load balancer sends the header immediately. */
const HEADER_WITHIN = 3000

const server = createServer((request, response) => {
  const { remoteAddress, remotePort } = request.socket
  response.end(`Hello from process ${process.pid}. You are ${remoteAddress}:${remotePort}.\n`)
})

// Node's own listener, which starts the HTTP parser, has to wait for the header.
const [parse] = server.listeners('connection') as [(socket: Socket) => void]
server.removeAllListeners('connection')
server.on('connection', (socket: Socket) => {
  // The broker's health checks come from the broker itself, without a header.
  if (backend.connection(socket)?.listener === 'baton:health') return parse.call(server, socket)
  void takeHeader(socket).then(
    () => parse.call(server, socket),
    () => socket.destroy(),
  )
})

async function takeHeader(socket: Socket): Promise<void> {
  const address = (socket.remoteAddress ?? '').replace(/^::ffff:/, '')
  if (!balancers.check(address, isIPv4(address) ? 'ipv4' : 'ipv6'))
    throw new Error(`${address} is not a load balancer`)
  const signal = AbortSignal.timeout(HEADER_WITHIN)
  let read: Buffer = Buffer.alloc(0)
  for (;;) {
    await once(socket, 'readable', { signal })
    const chunk = socket.read() as Buffer | null
    if (chunk === null) {
      if (socket.readableEnded || socket.destroyed) throw new Error('ended before its header')
      continue
    }
    read = Buffer.concat([read, chunk])
    const decoded = decodeProxyHeader(read)
    if (decoded === undefined) continue
    const { header, length } = decoded
    // A LOCAL header has no addresses: the load balancer's own health check.
    if (header.addresses !== undefined) show(socket, header.addresses)
    if (read.length > length) socket.unshift(read.subarray(length))
    return
  }
}

/** Makes the socket look as if the client had connected directly: frameworks read these two properties. */
function show(
  socket: Socket,
  { source, sourcePort }: { readonly source: string; readonly sourcePort: number },
): void {
  Object.defineProperty(socket, 'remoteAddress', { value: source })
  Object.defineProperty(socket, 'remotePort', { value: sourcePort })
}

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
const backend = createBackend()
backend.attach(server)
await backend.ready()

process.once('SIGTERM', () => void backend.drain())
