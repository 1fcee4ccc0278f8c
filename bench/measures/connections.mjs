// New connections, one request each: how many per second, and the CPU time of each.
import { ab } from '../load-tools.mjs'
import { OLD_NAME } from '../peers/baton.mjs'
import { withProcessorTime } from '../processor-time.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'

const CONCURRENCY = 64

export const peers = [
  'Baton',
  OLD_NAME,
  'C floor',
  'cluster',
  'PM2',
  'reusePort',
  'nginx',
  'HAProxy http',
  'HAProxy tcp',
  'direct',
]

/** Enough for a clock tick of 10 ms to be negligible: 40,000 connections cost the C floor about 0.2 s. */
const SIZES = { full: { connections: 40_000, warmUp: 20_000 }, quick: { connections: 4000, warmUp: 1500 } }

/** @type {import('./index.mjs').Measure} */
export async function measure({ peers: running, rounds, size, connections, leaveOut }) {
  const wanted = connections ?? SIZES[size].connections
  const load = (peer, count) => ab(peer.port, { connections: count, concurrency: CONCURRENCY })
  const samples = await interleaved({
    peers: running,
    rounds,
    leaveOut,
    warmUp: (peer) => load(peer, Math.min(wanted, SIZES[size].warmUp)),
    sample: async (peer) => {
      const { result, broker, backend } = await withProcessorTime(peer, () => load(peer, wanted))
      const micros = 1e6 / wanted
      return {
        perSecond: result.perSecond,
        broker: broker * micros,
        backend: backend * micros,
        together: (broker + backend) * micros,
      }
    },
  })
  const withBroker = new Map([...samples].filter(([, rows]) => rows.some(({ broker }) => broker > 0)))
  return {
    samples,
    sections: [
      comparison({
        title: 'New connections per second',
        note: `One request each, ${CONCURRENCY} at a time; ab, ${wanted.toLocaleString('en-US')} in a round.`,
        unit: 'connections/s',
        samples,
        metric: 'perSecond',
        targets: [
          { what: 'new connections/s, to the C floor', against: 'C floor', atLeast: 0.9 },
          { what: 'new connections/s, to cluster', against: 'cluster', atLeast: 1.3, stretch: 1.7 },
        ],
      }),
      comparison({
        title: 'CPU time of a new connection',
        note: 'In the same rounds, broker and backend together: user and system time of all their processes.',
        unit: 'us',
        samples,
        metric: 'together',
        targets: [
          {
            what: 'CPU of a connection, broker and backend, to cluster',
            against: 'cluster',
            atMost: 0.7,
            stretch: 0.55,
          },
        ],
      }),
      comparison({
        title: 'CPU time of a new connection in the broker',
        note: 'The part in front of the backend: for Baton its worker and master, for `cluster` its primary, for PM2 its daemon.',
        unit: 'us',
        samples: withBroker,
        metric: 'broker',
        targets: [
          { what: 'CPU of a connection, broker alone, to the C floor', against: 'C floor', atMost: 2.5 },
        ],
      }),
      comparison({
        title: 'CPU time of a new connection in the backend',
        note: "The backend's part.",
        unit: 'us',
        samples,
        metric: 'backend',
        targets: [{ what: 'CPU of a connection, backend alone, to direct', against: 'direct', atMost: 1.1 }],
      }),
    ],
  }
}
