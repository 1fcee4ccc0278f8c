import { type FSWatcher, lstatSync, readdirSync, watch } from 'node:fs'
import { join } from 'node:path'

/** An editor, or a compiler, writes many files at once: milliseconds without a change before anybody hears of one. */
const QUIET_MS = 200

/** Not the app's own: what is installed, and what begins with a dot. */
const isOwn = (name: string) => name !== 'node_modules' && !name.startsWith('.')

/**
 * Watches a folder of source code and everything below it, but for `node_modules` and what begins with a dot.
 *
 * @param onChange something has changed, and nothing since
 * @returns what ends it
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
      // It was removed.
      watcher.on('error', () => drop(path))
    } catch {
      // Gone between the look and the watch.
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

/** Whether anything that `watchFolder` watches has changed after `time`, in milliseconds since the Unix epoch. */
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

/** A file that is gone has changed its folder. */
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
