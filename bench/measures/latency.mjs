// A new connection on an idle machine: from connect() to the first byte of the response.
import { oneByOne } from '../load-tools.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'

export { peers } from './connections.mjs'
export const quickPeers = ['Baton', 'C floor', 'cluster', 'direct']

const SIZES = { full: { connections: 5000, warmUp: 2000 }, quick: { connections: 1000, warmUp: 300 } }
/** @param {string} what */
const target = (what) => [{ what, against: 'cluster', atMost: 1.2, stretch: 1 }]
/** Time limit of a round, for every peer. */
const SECONDS = 10

/** @type {import('./index.mjs').Measure} */
export async function measure({ peers: running, rounds, size, leaveOut }) {
  const { connections, warmUp } = SIZES[size]
  const samples = await interleaved({
    peers: running,
    rounds,
    leaveOut,
    warmUp: ({ port }) => oneByOne(port, { connections: warmUp, seconds: SECONDS }),
    sample: ({ port }) => oneByOne(port, { connections, seconds: SECONDS }),
  })
  return {
    samples,
    sections: [
      comparison({
        title: 'Latency of a new connection, median',
        note: `One at a time, from connect() to the first byte of the response; ${connections.toLocaleString('en-US')} in a round.`,
        unit: 'us',
        samples,
        metric: 'p50',
        targets: target('latency of a new connection, p50, to cluster'),
      }),
      comparison({
        title: 'Latency of a new connection, p99',
        note: 'In the same rounds.',
        unit: 'us',
        samples,
        metric: 'p99',
        targets: target('latency of a new connection, p99, to cluster'),
      }),
    ],
  }
}
