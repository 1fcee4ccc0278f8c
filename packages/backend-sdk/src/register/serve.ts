import { lookup } from 'node:dns/promises'
import { type AddressInfo, isIP, isIPv6, type Server } from 'node:net'
import { type AttachableServer, serverKind } from '../attach/server-kind.ts'
import { createBackend } from '../backend.ts'
import { BackendError } from '../errors.ts'
import { endWith } from './ending.ts'
import { askMaster, listenError, type ListenRequest, type Opened } from './master.ts'
import type { Starting } from './starting.ts'
import type { ListenTarget } from './target.ts'

/** How bind(2) and socket(2) say that a machine has no IPv6. */
const NO_IPV6 = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL'])

/** By address and port: the servers of this process. One that was closed has given up its place. */
const serving = new Map<string, Server>()

/**
 * From `listen()` to `listening`: the master opens the port, this process registers as a backend of its service, and the
 * server is told. What goes wrong is an `error` event of the server.
 */
export async function serve(starting: Starting, masterSocket: string): Promise<void> {
  try {
    await listening(starting, masterSocket)
  } catch (error) {
    if (!starting.signal.aborted) starting.fail(error as Error)
  }
}

async function listening(starting: Starting, masterSocket: string): Promise<void> {
  const { server, signal, target } = starting
  const service = process.env['BATON_SERVICE']
  if (service === undefined || service === '') throw new BackendError('BATON_ERR_NO_SERVICE')
  const opened = await open(masterSocket, target, { service, protocol: protocolOf(server) }, signal)
  // Closed while the answer was read.
  if (signal.aborted) return
  // The master would give both of them a share: it opens a port once for all processes of the app.
  const place = `${opened.address} ${opened.port}`
  if (serving.get(place)?.listening === true)
    throw listenError('EADDRINUSE', { host: target.host ?? opened.address, port: target.port })
  const backend = createBackend({ service: opened.service })
  serving.set(place, server)
  starting.attached()
  backend.attach(server, { address: addressOf(opened) })
  server.once('close', () => backend.detach())
  endWith(backend)
  try {
    await backend.ready()
  } catch (error) {
    // The app has closed the server, or was told to drain, before the broker was there: that is no error.
    if (backend.state === 'draining' || backend.state === 'closed') return
    await backend.close()
    backend.detach()
    throw error
  }
  // A tick later, so that what a listener throws is the app's to catch, as with Node, and no rejection of ours.
  process.nextTick(() => {
    if (server.listening) server.emit('listening')
  })
}

/** What Node's own `listen()` does when it is told no host: all addresses, or all of IPv4 where there is no IPv6. */
async function open(
  masterSocket: string,
  { host, port }: ListenTarget,
  request: Pick<ListenRequest, 'service' | 'protocol'>,
  signal: AbortSignal,
): Promise<Opened> {
  const ask = (address: string) => askMaster(masterSocket, { ...request, host: address, port }, signal)
  if (host !== undefined) return ask(isIP(host) === 0 ? (await lookup(host)).address : host)
  try {
    return await ask('::')
  } catch (error) {
    if (!NO_IPV6.has((error as NodeJS.ErrnoException).code ?? '')) throw error
    return ask('0.0.0.0')
  }
}

/** What the broker may do with a connection that nobody takes: it answers only where it knows the language. */
function protocolOf(server: AttachableServer): ListenRequest['protocol'] {
  const kind = serverKind(server)
  if (kind === 'http') return 'http'
  return kind === 'net' ? 'tcp' : 'tls'
}

function addressOf({ address, port }: Opened): AddressInfo {
  return { address, port, family: isIPv6(address) ? 'IPv6' : 'IPv4' }
}
