// Requests on keep-alive connections: after the handoff, a connection belongs to the backend.
//
// Two processes of one program differ by a few percent for as long as they live (what V8 has compiled, memory layout). For
// an interval that describes the program, every ratio needs new processes, so each round starts its own.
import { wrk } from '../load-tools.mjs'
import { startPeers, thenStop } from '../peers/index.mjs'
import { withProcessorTime } from '../processor-time.mjs'
import { comparison } from '../report/comparison.mjs'
import { interleaved, rotated } from '../rounds.mjs'

const PEERS = ['Baton', 'direct', 'nginx', 'HAProxy http']
const CONNECTIONS = 32
/** `seconds`, `sets` of processes per requested round, and `samples` per set. */
const SIZES = {
  full: { seconds: 3, warmUp: 2, sets: 2, samples: 1 },
  quick: { seconds: 1, warmUp: 0, sets: 1, samples: 2 },
}

/** @type {import('./index.mjs').Measure} */
export async function measure({ isWanted, rounds, size, leaveOut }) {
  const { seconds, warmUp, sets, samples: rate } = SIZES[size]
  const load = (peer, duration) => wrk(peer.port, { connections: CONNECTIONS, seconds: duration })
  /** @type {Map<string, Record<string, number>[]>} */
  const samples = new Map(PEERS.filter(isWanted).map((name) => [name, []]))
  const drop = (name, reason) => {
    samples.delete(name)
    leaveOut(name, reason)
  }
  for (let set = 0; set < rounds * sets; set++) {
    const peers = await startPeers(rotated([...samples.keys()], set), {}, drop)
    const found = await thenStop(peers, () =>
      interleaved({
        peers,
        rounds: rate,
        leaveOut: drop,
        ...(warmUp > 0 && { warmUp: (peer) => load(peer, warmUp) }),
        sample: async (peer) => {
          const { result, broker, backend } = await withProcessorTime(peer, () => load(peer, seconds))
          return {
            perSecond: result.requests / result.seconds,
            together: ((broker + backend) / result.requests) * 1e6,
          }
        },
      }),
    )
    for (const [name, rows] of found) samples.get(name)?.push(...rows)
  }
  return {
    samples,
    sections: [
      comparison({
        title: 'Keep-alive requests per second',
        note:
          `${CONNECTIONS} connections; wrk, ${seconds} s in a round. ` +
          (sets > 1 ? `New processes in each of ${rounds * sets} rounds. ` : '') +
          `The interval is that of the mean of the paired ratios (Student's t of their logarithms).`,
        unit: 'requests/s',
        samples,
        metric: 'perSecond',
        withInterval: true,
        targets: [
          { what: 'keep-alive requests/s, to direct', against: 'direct', includesOne: true },
          { what: 'keep-alive requests/s, to nginx', against: 'nginx', atLeast: 1.3 },
          { what: 'keep-alive requests/s, to HAProxy (http)', against: 'HAProxy http', atLeast: 1.3 },
        ],
      }),
      comparison({
        title: 'CPU time of a keep-alive request',
        note: 'Broker and backend together.',
        unit: 'us',
        samples,
        metric: 'together',
      }),
    ],
  }
}
