// Processes that share a port with SO_REUSEPORT: the kernel spreads the connections, with nothing in front.
import { once } from 'node:events'
import { createServer } from 'node:net'
import { freePort } from '../scratch.mjs'
import { LeftOut, startApps } from './peer.mjs'

/** Tested by trying: older versions of Node ignore the option, and the second process finds the port in use. */
async function isSupported(port) {
  const options = { port, host: '127.0.0.1', reusePort: true }
  const servers = [createServer(), createServer()]
  try {
    for (const server of servers) await once(server.listen(options), 'listening')
    return true
  } catch {
    return false
  } finally {
    for (const server of servers) server.close()
  }
}

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ backends = 1, bodyBytes } = {}) {
  if (!(await isSupported(await freePort())))
    throw new LeftOut(`Node ${process.versions.node} has no reusePort (22.12 and 23.1 do)`)
  const port = await freePort()
  const env = { PORT: String(port) }
  const { apps: _, ...rest } = await startApps({ count: backends, mode: 'reusePort', bodyBytes, env })
  return { port, ...rest }
}
