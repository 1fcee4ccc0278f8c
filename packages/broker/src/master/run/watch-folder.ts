import { type FSWatcher, lstatSync, readdirSync, watch } from 'node:fs'
import { join } from 'node:path'

/** Time without a change before changes are reported, in ms: an editor or a compiler writes many files at once. */
const QUIET_MS = 200

/** Excludes `node_modules` and names that begin with a dot. */
const isOwn = (name: string) => name !== 'node_modules' && !name.startsWith('.')

/**
 * Watches a folder of source code and everything below it, except `node_modules` and names that begin with a dot.
 *
 * @param onChange called after a change, once there are no further ones
 * @returns stops watching
 */
export function watchFolder(folder: string, onChange: () => void): () => void {
  const watchers = new Map<string, FSWatcher>()
  let timer: NodeJS.Timeout | undefined
  const changed = () => {
    clearTimeout(timer)
    timer = setTimeout(() => {
      for (const path of foldersBelow(folder)) add(path)
      onChange()
    }, QUIET_MS)
  }
  const add = (path: string) => {
    if (watchers.has(path)) return
    try {
      const watcher = watch(path, (_event, name) => {
        if (name === null || isOwn(name)) changed()
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

/** Whether anything that `watchFolder` watches has changed since `time`, a Unix time in ms. */
export function hasChangedSince(folder: string, time: number): boolean {
  return foldersBelow(folder).some((each) => [each, ...filesIn(each)].some((path) => changedAt(path) > time))
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

/** 0 for a removed file: its folder has changed. */
function changedAt(path: string): number {
  try {
    return lstatSync(path).ctimeMs
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
