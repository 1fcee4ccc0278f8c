/** See `rounds.mjs`; for its tests. */
export function interleaved<P extends { name: string }, S>(options: {
  peers: readonly P[]
  rounds: number
  sample: (peer: P) => Promise<S>
  warmUp?: (peer: P) => Promise<unknown>
  leaveOut: (name: string, reason: string) => void
}): Promise<Map<string, S[]>>
