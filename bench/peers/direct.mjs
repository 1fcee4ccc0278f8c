// Nothing in front of the app: clients connect to its own port.
import { startApps } from './peer.mjs'

/** @param {import('./peer.mjs').PeerOptions} options @returns {Promise<Omit<import('./peer.mjs').Peer, 'name'>>} */
export async function start({ bodyBytes } = {}) {
  const { apps, ...rest } = await startApps({ mode: 'listen', bodyBytes })
  return { port: apps[0].port, ...rest }
}
