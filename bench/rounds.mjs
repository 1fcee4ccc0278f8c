// Interleaved rounds: every peer runs once per round, and each round starts with a different one.

/** @template T @param {readonly T[]} list @param {number} by */
export const rotated = (list, by) => [...list.slice(by % list.length), ...list.slice(0, by % list.length)]

/**
 * One sample of each peer per round. A peer that fails is left out with all its samples; if Baton
 * itself fails, the run fails.
 *
 * @template {{ name: string }} P
 * @template S
 * @param {{
 *   peers: readonly P[]
 *   rounds: number
 *   sample: (peer: P) => Promise<S>
 *   warmUp?: (peer: P) => Promise<unknown>
 *   leaveOut: (name: string, reason: string) => void
 * }} options `warmUp`: the same load, not counted
 * @returns {Promise<Map<string, S[]>>} in the order of `peers`
 */
export async function interleaved({ peers, rounds, sample, warmUp, leaveOut }) {
  /** @type {Map<string, S[]>} */
  const samples = new Map(peers.map(({ name }) => [name, []]))
  const attempt = async (peer, work) => {
    if (!samples.has(peer.name)) return undefined
    try {
      return await work(peer)
    } catch (error) {
      if (/^Baton(,|$)/.test(peer.name)) throw error
      samples.delete(peer.name)
      leaveOut(peer.name, error.message.split('\n')[0])
      return undefined
    }
  }
  if (warmUp !== undefined) for (const peer of peers) await attempt(peer, warmUp)
  for (let round = 0; round < rounds; round++) {
    for (const peer of rotated(peers, round)) {
      const result = await attempt(peer, sample)
      if (result !== undefined) samples.get(peer.name)?.push(result)
    }
  }
  return samples
}
