// How new connections affect requests on keep-alive ones. An open loop, at a rate that leaves every peer mostly idle: it
// shows interference, not saturation.
import { onSchedule } from '../load-tools.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'

export const peers = ['Baton', 'C floor', 'cluster', 'PM2', 'nginx', 'HAProxy http', 'direct']
export const quickPeers = ['Baton', 'cluster']

/** `requests` and `connections` per second. */
const LOAD = { kept: 32, requests: 2000, connections: 1000 }
/** Seconds. */
const SIZES = { full: { lead: 1, seconds: 8, warmUp: 2 }, quick: { lead: 0.3, seconds: 1, warmUp: 0.2 } }

/** @type {import('./index.mjs').Measure} */
export async function measure({ peers: running, rounds, size, leaveOut }) {
  const { lead, seconds, warmUp } = SIZES[size]
  const samples = await interleaved({
    peers: running,
    rounds,
    leaveOut,
    warmUp: ({ port }) => onSchedule(port, { ...LOAD, lead: 0, seconds: warmUp }),
    sample: async ({ port }) => {
      const { kept, fresh } = await onSchedule(port, { ...LOAD, lead, seconds })
      return { kept99: kept.p99, kept50: kept.p50, fresh99: fresh.p99, fresh50: fresh.p50 }
    },
  })
  const load =
    `${LOAD.requests.toLocaleString('en-US')} requests/s in all on ${LOAD.kept} kept connections and ` +
    `${LOAD.connections.toLocaleString('en-US')} new connections/s, both on schedule whatever the answers, for ${seconds} s in a round. ` +
    'Times run from when a request was due.'
  return {
    samples,
    sections: [
      comparison({
        title: 'Keep-alive requests beside new connections, p99',
        note: load,
        unit: 'us',
        samples,
        metric: 'kept99',
        targets: [
          { what: 'p99 of kept requests under new connections, to cluster', against: 'cluster', atMost: 1 },
        ],
      }),
      comparison({
        title: 'Keep-alive requests beside new connections, median',
        note: 'In the same rounds.',
        unit: 'us',
        samples,
        metric: 'kept50',
      }),
      comparison({
        title: 'New connections beside keep-alive requests, p99',
        note: 'In the same rounds, to the end of the response.',
        unit: 'us',
        samples,
        metric: 'fresh99',
      }),
    ],
  }
}
