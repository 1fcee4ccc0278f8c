// Baton as `baton start` runs it: a master, a worker, and registered backends. The master does nothing per
// connection, but its CPU time is included.
import { startBroker } from '../broker.mjs'
import { startApps } from './peer.mjs'

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ backends = 1, bodyBytes, handoff = 'auto' } = {}) {
  const broker = await startBroker({ service: { handoff } })
  const env = { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' }
  const apps = await startApps({ count: backends, mode: 'attach', bodyBytes, env })
  return {
    port: broker.port,
    processes: [
      { role: 'broker', pid: broker.child.pid },
      { role: 'broker', pid: broker.pid },
      ...apps.processes,
    ],
    async stop() {
      await apps.stop()
      await broker.stop()
    },
  }
}
