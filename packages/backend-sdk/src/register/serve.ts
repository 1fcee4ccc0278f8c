import { type AddressInfo, isIPv6 } from 'node:net'
import { createBackend } from '../backend.ts'
import { BackendError } from '../errors.ts'
import { endWith } from './ending.ts'
import { askMaster, type Opened } from './master.ts'
import type { Starting } from './starting.ts'

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
  const opened = await askMaster(masterSocket, { service, host: target.host, port: target.port }, signal)
  // Closed while the answer was read.
  if (signal.aborted) return
  const backend = createBackend({ service: opened.service })
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

function addressOf({ address, port }: Opened): AddressInfo {
  return { address, port, family: isIPv6(address) ? 'IPv6' : 'IPv4' }
}
