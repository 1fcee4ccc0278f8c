import { dirname, join, posix, relative } from 'node:path'
import { filesBelow, read } from './markdown.ts'

/** Imports by file, as paths below one folder. Type imports count: to read a type, one has to know its file. */
export type Imports = ReadonlyMap<string, readonly string[]>

/**
 * Static, dynamic and type imports of the files below `folder`.
 *
 * @param lost called for an import that leads to none of them
 */
export function readImports(folder: string, lost: (file: string, path: string) => void): Imports {
  const files = new Set(filesBelow(folder, '.ts').map((file) => relative(folder, file)))
  const importsOf = (file: string) =>
    [...read(join(folder, file)).matchAll(/\b(?:from|import)\s*\(?\s*'(\.{1,2}\/[^']+)'/g)].flatMap(
      ([, path = '']) => {
        const target = posix.join(dirname(file), path)
        if (files.has(target)) return target
        lost(file, path)
        return []
      },
    )
  return new Map([...files].map((file) => [file, [...new Set(importsOf(file))]]))
}

export function edgesOf(imports: Imports): [from: string, to: string][] {
  return [...imports].flatMap(([from, all]) => all.map((to): [string, string] => [from, to]))
}

/** `worker/relay/dial.ts` is in `worker`, in `worker/relay`, and in itself. */
export function isIn(file: string, place: string): boolean {
  return file === place || file.startsWith(`${place}/`)
}

/**
 * The import between sibling folders that an import between two files amounts to: for `a/b/x.ts` and `a/c/d/y.ts`, `a/b` and
 * `a/c`. Undefined if one file's folder contains the other file.
 */
function betweenSiblings(from: string, to: string): [string, string] | undefined {
  const [one, other] = [from.split('/'), to.split('/')]
  const depth = one.findIndex((name, index) => name !== other[index])
  if (depth === -1 || depth === one.length - 1 || depth >= other.length - 1) return undefined
  return [one.slice(0, depth + 1).join('/'), other.slice(0, depth + 1).join('/')]
}

/** The folders that import one of their siblings. */
export function siblings(imports: Imports): Imports {
  const all = new Map<string, Set<string>>()
  for (const edge of edgesOf(imports)) {
    const [from, to] = betweenSiblings(...edge) ?? []
    if (from === undefined || to === undefined) continue
    all.set(from, (all.get(from) ?? new Set()).add(to))
    all.set(to, all.get(to) ?? new Set())
  }
  return new Map([...all].map(([from, to]) => [from, [...to]]))
}

/** Each import cycle, by its names; a cycle that is part of another one is reported once. */
export function circles(imports: Imports): string[] {
  const found: string[] = []
  const done = new Set<string>()
  const walk = (at: string, way: readonly string[]) => {
    const begin = way.indexOf(at)
    if (begin >= 0) found.push([...way.slice(begin), at].join(' -> '))
    if (begin >= 0 || done.has(at)) return
    for (const next of imports.get(at) ?? []) walk(next, [...way, at])
    done.add(at)
  }
  for (const at of imports.keys()) walk(at, [])
  return found
}
