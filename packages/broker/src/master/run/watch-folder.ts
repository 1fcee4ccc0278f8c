import { createHash } from 'node:crypto'
import { type FSWatcher, fstatSync, lstatSync, readdirSync, type Stats, watch } from 'node:fs'
import { join } from 'node:path'

/** Time without a change before changes are reported, in ms: an editor or a compiler writes many files at once. */
const QUIET_MS = 200

/** Excludes `node_modules` and names that begin with a dot. */
const isOwn = (name: string) => name !== 'node_modules' && !name.startsWith('.')

const identityOf = ({ dev, ino }: Stats) => `${dev}:${ino}`

/** Files that this process writes its log to, which may be in the folder that it watches: each deploy would lead to the next. */
const outputs = new Set(
  [1, 2].flatMap((fd) => {
    try {
      const stats = fstatSync(fd)
      return stats.isFile() ? [identityOf(stats)] : []
    } catch {
      return []
    }
  }),
)

function isOutput(path: string): boolean {
  if (outputs.size === 0) return false
  const stats = lstatSync(path, { throwIfNoEntry: false })
  return stats !== undefined && outputs.has(identityOf(stats))
}

/**
 * Watches a folder of source code and everything below it, except `node_modules`, names that begin with a dot, and what this process writes its log to.
 *
 * @param onChange called after a change, once there are no further ones, with the path of the first
 * @returns stops watching
 */
export function watchFolder(folder: string, onChange: (path: string) => void): () => void {
  const watchers = new Map<string, FSWatcher>()
  let timer: NodeJS.Timeout | undefined
  let first: string | undefined
  const changed = (path: string) => {
    first ??= path
    clearTimeout(timer)
    timer = setTimeout(() => {
      for (const each of foldersBelow(folder)) add(each)
      onChange(first ?? path)
      first = undefined
    }, QUIET_MS)
  }
  const add = (path: string) => {
    if (watchers.has(path)) return
    try {
      const watcher = watch(path, (_event, name) => {
        const file = name === null ? path : join(path, name)
        if ((name === null || isOwn(name)) && !isOutput(file)) changed(file)
      })
      watchers.set(path, watcher)
      // The folder was removed.
      watcher.on('error', () => drop(path))
    } catch {
      // Removed after it was listed.
    }
  }
  const drop = (path: string) => {
    watchers.get(path)?.close()
    watchers.delete(path)
  }
  for (const path of foldersBelow(folder)) add(path)
  return () => {
    clearTimeout(timer)
    for (const path of watchers.keys()) drop(path)
  }
}

/**
 * Whether anything that `watchFolder` watches has changed since `time`, a Unix time in ms.
 *
 * @param names `watchedNames` of that time. Without it, a folder has changed if anything was added to it or removed, watched or not
 */
export function hasChangedSince(folder: string, time: number, names?: string): boolean {
  if (names !== undefined && names !== watchedNames(folder)) return true
  const paths = foldersBelow(folder).flatMap((each) => [each, ...filesIn(each)])
  return paths.some((path) => changedAt(path, names === undefined) > time)
}

/** Stands for the names of everything that `watchFolder` watches. */
export function watchedNames(folder: string): string {
  const hash = createHash('sha256')
  for (const path of foldersBelow(folder).flatMap(filesIn).toSorted()) hash.update(path).update('\0')
  return hash.digest('base64url')
}

function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter(isOwn)
      .map((name) => join(folder, name))
  } catch {
    return []
  }
}

/** 0 for a removed file, of which its folder or the names tell. @param folders whether folders count */
function changedAt(path: string, folders: boolean): number {
  try {
    const stats = lstatSync(path)
    return (stats.isDirectory() && !folders) || outputs.has(identityOf(stats)) ? 0 : stats.ctimeMs
  } catch {
    return 0
  }
}

function foldersBelow(folder: string): string[] {
  try {
    const inside = readdirSync(folder, { withFileTypes: true })
    const folders = inside.filter((entry) => entry.isDirectory() && isOwn(entry.name))
    return [folder, ...folders.flatMap(({ name }) => foldersBelow(join(folder, name)))]
  } catch {
    return []
  }
}
