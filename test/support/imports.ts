import { dirname, join, posix, relative } from 'node:path'
import { filesBelow, read } from './markdown.ts'

/** Which files import which, by paths below one folder. Imports of types count: who reads a type has to know its file. */
export type Imports = ReadonlyMap<string, readonly string[]>

/**
 * Static, dynamic and type imports of the files below `folder`.
 *
 * @param lost hears of an import that leads to none of them
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
 * The import between two folders side by side that stands for one between two files: of `a/b/x.ts` and `a/c/d/y.ts` those are `a/b` and
 * `a/c`. Undefined where a file lies in a folder that holds the other one.
 */
function betweenSiblings(from: string, to: string): [string, string] | undefined {
  const [one, other] = [from.split('/'), to.split('/')]
  const depth = one.findIndex((name, index) => name !== other[index])
  if (depth === -1 || depth === one.length - 1 || depth >= other.length - 1) return undefined
  return [one.slice(0, depth + 1).join('/'), other.slice(0, depth + 1).join('/')]
}

/** The folders that import one of those beside them. */
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

/** Each way that ends where it began, by its names; a way that goes on in another one is told once. */
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
