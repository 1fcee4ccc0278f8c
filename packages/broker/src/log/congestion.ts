import { standardOutput } from './standard.ts'

/** An output that may be slower than the source of its lines. */
export interface Congestible {
  /** True if much is pending but the output is accepting it: waiting avoids dropped lines. */
  readonly congested: boolean
  /** Resolves when the output is no longer congested, or after `limit` ms. */
  relieved(limit: number): Promise<void>
}

const others = new Set<Congestible>()

/** From now on, sources of many lines also wait for `output`. @returns ends that */
export function addOutput(output: Congestible): () => void {
  others.add(output)
  return () => others.delete(output)
}

/** An output of this process that a source of many lines should wait for. */
export function congestedOutput(): Congestible | undefined {
  const output = standardOutput()
  if (output.congested) return output
  for (const other of others) if (other.congested) return other
  return undefined
}
