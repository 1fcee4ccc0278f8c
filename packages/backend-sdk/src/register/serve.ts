import { lookup } from 'node:dns/promises'
import { type AddressInfo, isIP, isIPv6, type Server } from 'node:net'
import { attachServer } from '../attach/index.ts'
import { type AttachableServer, serverKind } from '../attach/server-kind.ts'
import { createBackend } from '../backend.ts'
import { BackendError } from '../errors.ts'
import { endWith } from './ending.ts'
import { askMaster, listenError, type ListenRequest, type Opened } from './master.ts'
import type { Starting } from './starting.ts'
import type { ListenTarget } from './target.ts'

/** A server that listens as far as the app can see, until it is closed or served. */
interface Probe {
  isOver: boolean
  readonly end: () => void
}

/** Errors of bind(2) and socket(2) on a machine without IPv6. */
const NO_IPV6 = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL'])

/** This process's servers, by address and port. A closed one no longer occupies its address. */
const serving = new Map<string, Server>()

/**
 * From `listen()` to `listening`: the master opens the port, this process registers as a backend of the service, and the server
 * emits `listening`. Any failure is an `error` event of the server.
 */
export async function serve(starting: Starting, masterSocket: string, probe?: Probe): Promise<void> {
  try {
    await listening(starting, masterSocket, probe)
  } catch (error) {
    if (!starting.signal.aborted) starting.fail(error as Error)
  }
}

async function listening(starting: Starting, masterSocket: string, former?: Probe): Promise<void> {
  const { server, signal, target } = starting
  const service = process.env['BATON_SERVICE']
  if (service === undefined || service === '') throw new BackendError('BATON_ERR_NO_SERVICE')
  const probe = isProbe(server)
  const opened = await open(masterSocket, target, { service, protocol: protocolOf(server), probe }, signal)
  // The app closed the server meanwhile.
  if (signal.aborted || former?.isOver === true) return
  // The master opens a port once for all processes of the app, so it would not refuse a second server of this process.
  const place = `${opened.address} ${opened.port}`
  if (serving.get(place)?.listening === true)
    throw listenError('EADDRINUSE', { host: target.host ?? opened.address, port: target.port })
  if (probe) return answerProbe(starting, masterSocket, opened)
  const backend = createBackend({ service: opened.service })
  serving.set(place, server)
  starting.attached()
  former?.end()
  backend.attach(server, { address: addressOf(opened) })
  server.once('close', () => backend.detach())
  endWith(backend)
  try {
    await backend.ready()
  } catch (error) {
    // Closed by the app, or drained, before it was registered: not an error.
    if (backend.state === 'draining' || backend.state === 'closed') return
    await backend.close()
    backend.detach()
    throw error
  }
  tellListening(starting)
}

/** Once, and a tick later, so that an exception in a listener is uncaught, as with Node, and not a rejection of this promise. */
function tellListening(starting: Starting): void {
  const { server } = starting
  process.nextTick(() => {
    if (!server.listening || starting.told) return
    starting.told = true
    server.emit('listening')
  })
}

/**
 * No code receives this server's connections: the app has opened it to see whether the port is free, and closes it again. As a backend it would
 * get clients and leave them without an answer.
 */
function isProbe(server: Server): boolean {
  return serverKind(server) === 'net' && server.listenerCount('connection') === 0
}

/** The server listens as far as the app can see. If the app wants its connections after all, it is served. */
function answerProbe(starting: Starting, masterSocket: string, opened: Opened): void {
  const { server, target } = starting
  starting.attached()
  const attachment = attachServer(server, { onServerClose: () => {} })
  // Apps listen next on the port that they read here, so it is the one that they asked for, also under `baton run --listen`: the master knows
  // the app's ports by these numbers.
  attachment.address = { ...addressOf(opened), port: target.port }
  const probe: Probe = {
    isOver: false,
    end() {
      probe.isOver = true
      server.off('newListener', wanted).off('close', probe.end)
      attachment.detach()
    },
  }
  const wanted = (event: string | symbol) => {
    if (event !== 'connection') return
    server.off('newListener', wanted)
    // The listener is added after this event. Until the master has answered, the server listens as before.
    setImmediate(() => void serve(starting, masterSocket, probe))
  }
  server.on('newListener', wanted).once('close', probe.end)
  tellListening(starting)
}

/** Without a host, like Node's own `listen()`: all addresses, or all IPv4 addresses on a machine without IPv6. */
async function open(
  masterSocket: string,
  { host, port }: ListenTarget,
  request: Pick<ListenRequest, 'service' | 'protocol' | 'probe'>,
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

/** Tells the broker how to reject a connection that no backend takes: with a 503 on `http`, with a plain close otherwise. */
function protocolOf(server: AttachableServer): ListenRequest['protocol'] {
  const kind = serverKind(server)
  if (kind === 'http') return 'http'
  return kind === 'net' ? 'tcp' : 'tls'
}

function addressOf({ address, port }: Opened): AddressInfo {
  return { address, port, family: isIPv6(address) ? 'IPv6' : 'IPv4' }
}
