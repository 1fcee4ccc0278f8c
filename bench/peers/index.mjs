// The peers, by the names used in the tables.
import * as baton from './baton.mjs'
import * as cluster from './cluster.mjs'
import * as direct from './direct.mjs'
import * as floor from './floor.mjs'
import * as haproxy from './haproxy.mjs'
import * as nginx from './nginx.mjs'
import { LeftOut } from './peer.mjs'
import * as pm2 from './pm2.mjs'
import * as reusePort from './reuse-port.mjs'

/** @typedef {import('./peer.mjs').Peer} Peer */

/** @type {Record<string, (options?: import('./peer.mjs').PeerOptions) => Promise<Omit<Peer, 'name'>>>} */
export const PEERS = {
  Baton: baton.start,
  [baton.OLD_NAME]: baton.startOld,
  'C floor': floor.start,
  cluster: cluster.start,
  PM2: pm2.start,
  reusePort: reusePort.start,
  nginx: nginx.start,
  'HAProxy http': haproxy.startHttp,
  'HAProxy tcp': haproxy.startTcp,
  direct: direct.start,
}

/**
 * @param {keyof typeof PEERS} name
 * @param {import('./peer.mjs').PeerOptions} options
 * @param {(name: string, reason: string) => void} leaveOut
 * @param {string} title its name in the tables
 * @returns {Promise<Peer | undefined>} undefined if it is skipped
 */
export async function startPeer(name, options, leaveOut, title = name) {
  try {
    return { name: title, ...(await PEERS[name](options)) }
  } catch (error) {
    if (!(error instanceof LeftOut)) throw error
    leaveOut(title, error.message)
    return undefined
  }
}

/**
 * Starts the available peers, one at a time.
 *
 * @param {readonly string[]} names
 * @param {import('./peer.mjs').PeerOptions} options
 * @param {(name: string, reason: string) => void} leaveOut
 * @returns {Promise<Peer[]>}
 */
export async function startPeers(names, options, leaveOut) {
  const running = []
  for (const name of names) {
    const peer = await startPeer(name, options, leaveOut)
    if (peer !== undefined) running.push(peer)
  }
  return running
}

/**
 * Stops them after `work`, whether it succeeds or fails.
 *
 * @template T
 * @param {readonly Peer[]} peers
 * @param {() => Promise<T>} work
 */
export async function thenStop(peers, work) {
  try {
    return await work()
  } finally {
    await stopPeers(peers)
  }
}

/** @param {readonly Peer[]} peers */
export async function stopPeers(peers) {
  for (const peer of peers) await peer.stop()
}
