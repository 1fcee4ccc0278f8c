import type { HostPattern } from '../../config/host-pattern.ts'

/** Finds, among many patterns, those that accept a name, without comparing each; see `acceptsHost`. */
export class HostIndex {
  /** By name, and by what follows the `*` of a wildcard: `.shop.example`, or '' for any name. */
  readonly #names = new Map<string, number[]>()
  readonly #suffixes = new Map<string, number[]>()
  readonly #unconditional: number[] = []

  /** @param patterns undefined accepts every connection, also one without a name */
  constructor(patterns: readonly (HostPattern | undefined)[]) {
    for (const [index, pattern] of patterns.entries()) {
      if (pattern === undefined) this.#unconditional.push(index)
      else if (pattern.startsWith('*')) add(this.#suffixes, pattern.slice(1), index)
      else add(this.#names, pattern, index)
    }
  }

  /** Indices of the patterns that accept the name, in their order. */
  find(name: string | undefined): readonly number[] {
    if (name === undefined || name === '') return this.#unconditional
    const named = this.#names.get(name)
    if (this.#suffixes.size === 0 && this.#unconditional.length === 0) return named ?? []
    const found = [this.#unconditional, named ?? [], this.#suffixes.get('') ?? []]
    if (this.#suffixes.size > 0) {
      for (let dot = name.indexOf('.', 1); dot !== -1; dot = name.indexOf('.', dot + 1)) {
        const indices = this.#suffixes.get(name.slice(dot))
        if (indices !== undefined) found.push(indices)
      }
    }
    return found.flat().toSorted((one, other) => one - other)
  }
}

function add(lists: Map<string, number[]>, key: string, index: number): void {
  const list = lists.get(key)
  if (list === undefined) lists.set(key, [index])
  else list.push(index)
}
