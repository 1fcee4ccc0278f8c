// Traffic that the broker carries itself: large bodies over silent reconnect (`"handoff": "off"`), to the SDK's endpoint.
import { wrk } from '../load-tools.mjs'
import { startPeers, thenStop } from '../peers/index.mjs'
import { withProcessorTime } from '../processor-time.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved } from '../rounds.mjs'

const PEERS = ['Baton', 'HAProxy tcp', 'nginx', 'direct']
const QUICK_PEERS = ['Baton', 'HAProxy tcp']
const BODY = 1024 * 1024
const CONNECTIONS = 8
const MEBI = 1024 * 1024
const SECONDS = { full: { seconds: 3, warmUp: 2 }, quick: { seconds: 1, warmUp: 1 } }

/** @type {import('./index.mjs').Measure} */
export async function measure({ isWanted, rounds, size, leaveOut }) {
  const { seconds, warmUp } = SECONDS[size]
  const names = (size === 'quick' ? QUICK_PEERS : PEERS).filter(isWanted)
  const peers = await startPeers(names, { bodyBytes: BODY, handoff: 'off' }, leaveOut)
  const load = (peer, duration) => wrk(peer.port, { connections: CONNECTIONS, seconds: duration })
  const samples = await thenStop(peers, () =>
    interleaved({
      peers,
      rounds,
      leaveOut,
      warmUp: (peer) => load(peer, warmUp),
      sample: async (peer) => {
        const { result, broker, backend } = await withProcessorTime(peer, () => load(peer, seconds))
        const mebibytes = result.bytes / MEBI
        const each = (cost) => (cost / mebibytes) * 1024 * 1000
        return {
          throughput: mebibytes / result.seconds,
          broker: each(broker),
          backend: each(backend),
        }
      },
    }),
  )
  const withBroker = new Map([...samples].filter(([name]) => name !== 'direct'))
  return {
    samples,
    sections: [
      comparison({
        title: 'Relay throughput',
        note: `Bodies of 1 MiB on ${CONNECTIONS} keep-alive connections, which Baton relays over silent reconnect (\`"handoff": "off"\`); wrk, ${seconds} s in a round.`,
        unit: 'MiB/s',
        samples,
        metric: 'throughput',
        targets: [
          { what: 'relay throughput, to HAProxy (tcp)', against: 'HAProxy tcp', atLeast: 0.7, stretch: 1.3 },
        ],
      }),
      comparison({
        title: 'CPU time of 1 GiB in the broker',
        note: 'In the same rounds.',
        unit: 'ms',
        samples: withBroker,
        metric: 'broker',
        targets: [
          {
            what: 'CPU of a relayed GiB in the broker, to HAProxy (tcp)',
            against: 'HAProxy tcp',
            atMost: 0.8,
          },
        ],
      }),
      comparison({
        title: 'CPU time of 1 GiB in the backend',
        note: 'In the same rounds.',
        unit: 'ms',
        samples,
        metric: 'backend',
      }),
    ],
  }
}
