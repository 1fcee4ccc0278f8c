// The measures by name, in the order in which they run: first those that share peers, which then stop, and then those that
// start what they need themselves.
import * as connections from './connections.mjs'
import * as heldMemory from './held-memory.mjs'
import * as keepAlive from './keep-alive.mjs'
import * as latency from './latency.mjs'
import * as manyBackends from './many-backends.mjs'
import * as mixed from './mixed.mjs'
import * as relay from './relay.mjs'
import * as stuck from './stuck.mjs'

/**
 * Runs one measure. `peers`: those of the module's `peers` that run here; a module without them starts the wanted ones
 * itself. `connections`: per round, from the command line.
 *
 * @typedef {(context: {
 *   peers: import('../peers/peer.mjs').Peer[]
 *   rounds: number
 *   size: 'full' | 'quick'
 *   connections: number | undefined
 *   isWanted: (name: string) => boolean
 *   leaveOut: (name: string, reason: string) => void
 * }) => Promise<{
 *   samples: Map<string, Record<string, number>[]>
 *   sections: import('../report/comparison.mjs').Section[]
 * }>} Measure
 */

/** @type {Record<string, { measure: Measure, peers?: string[], quickPeers?: string[] }>} */
export const MEASURES = {
  connections,
  latency,
  mixed,
  'keep-alive': keepAlive,
  'held-memory': heldMemory,
  relay,
  stuck,
  'many-backends': manyBackends,
}
