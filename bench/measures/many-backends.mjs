// The broker's cost per connection when there are many backends to choose from and to communicate with.
import { ab } from '../load-tools.mjs'
import { startPeer, thenStop } from '../peers/index.mjs'
import { withProcessorTime } from '../processor-time.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'

const MANY = 64
const CONCURRENCY = 64
const SIZES = { full: { connections: 30_000, warmUp: 20_000 }, quick: { connections: 3000, warmUp: 1500 } }
const RUNS = { full: ['Baton', 'C floor', 'cluster'], quick: ['Baton'] }

/** @type {import('./index.mjs').Measure} */
export async function measure({ isWanted, rounds, size, leaveOut }) {
  const { connections, warmUp } = SIZES[size]
  const peers = []
  for (const name of RUNS[size].filter(isWanted)) {
    for (const [count, title] of [
      [1, `${name}, 1 backend`],
      [MANY, `${name}, ${MANY} backends`],
    ]) {
      const peer = await startPeer(name, { backends: count }, leaveOut, title)
      if (peer !== undefined) peers.push(peer)
    }
  }
  const load = ({ port }, count) => ab(port, { connections: count, concurrency: CONCURRENCY })
  const samples = await thenStop(peers, () =>
    interleaved({
      peers,
      rounds,
      leaveOut,
      warmUp: (peer) => load(peer, warmUp),
      sample: async (peer) => {
        const { result, broker } = await withProcessorTime(peer, () => load(peer, connections))
        return { broker: (broker / connections) * 1e6, perSecond: result.perSecond }
      },
    }),
  )
  const subject = `Baton, ${MANY} backends`
  return {
    samples,
    sections: [
      comparison({
        title: 'CPU time of a new connection in the broker, with many backends',
        note: `${CONCURRENCY} at a time; ab, ${connections.toLocaleString('en-US')} in a round.`,
        unit: 'us',
        samples,
        metric: 'broker',
        subject,
        targets: [
          {
            what: `CPU of the broker alone, ${MANY} backends to 1`,
            against: 'Baton, 1 backend',
            atMost: 2,
            stretch: 1.15,
          },
        ],
      }),
      comparison({
        title: 'New connections per second, with many backends',
        note: 'In the same rounds.',
        unit: 'connections/s',
        samples,
        metric: 'perSecond',
        subject,
      }),
    ],
  }
}
