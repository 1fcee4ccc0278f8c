import { existsSync, lstatSync, mkdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { errnoOf } from '../config/error.ts'

/** The kernel's own limit on symbolic links in a path (path_resolution(7)). */
const MAX_LINKS = 40

const STICKY = 0o1000
const GROUP_WRITE = 0o020
const OTHER_WRITE = 0o002

/** User and group of this process. */
export interface Identity {
  readonly uid: number
  readonly gid: number
}

/**
 * Checks whether other users could replace `path`. They can if they own a folder above it, or if they may write to one that is not
 * sticky, or that is sticky but contains an entry of theirs that leads to `path` (unlink(2), rename(2)). Symbolic links are followed, and
 * checked like any other entry.
 *
 * Write access of a group is accepted for root's group and the user's own (gid equal to uid, as useradd(8) creates them).
 *
 * @param path absolute; its last components need not exist yet
 * @returns an error message, or undefined
 * @throws the error of lstat(2), except ENOENT
 */
export function exposureOf(path: string, { uid, gid }: Identity): string | undefined {
  let folder = '/'
  let links = 0
  const ahead = parts(path)
  for (let name = ahead.shift(); name !== undefined; name = ahead.shift()) {
    if (name === '..') {
      folder = dirname(folder)
      continue
    }
    const entry = join(folder, name)
    const found = lstatSync(entry, { throwIfNoEntry: false })
    const { mode, uid: owner, gid: group } = statSync(folder)
    if (owner !== uid && owner !== 0 && !isUnmapped(owner))
      return `${folder} belongs to uid ${owner}, who can replace ${entry}; choose another runtimeDir`
    const groupIsOurs = group === 0 || (group === gid && gid === uid)
    const writable = (mode & OTHER_WRITE) !== 0 || ((mode & GROUP_WRITE) !== 0 && !groupIsOurs)
    if (writable && (mode & STICKY) === 0) {
      const octal = (mode & 0o7777).toString(8)
      return `${folder} is writable by others (mode ${octal}), who can replace ${entry}; chmod +t it, or choose another runtimeDir`
    }
    if (writable && found !== undefined && found.uid !== uid && found.uid !== 0) {
      return `${entry} belongs to uid ${found.uid}, in a folder that is writable by others; choose another runtimeDir`
    }
    if (found === undefined) return undefined
    if (!found.isSymbolicLink()) {
      folder = entry
      continue
    }
    links += 1
    if (links > MAX_LINKS) return `${path} has too many symbolic links`
    const target = readlinkSync(entry)
    if (target.startsWith('/')) folder = '/'
    ahead.unshift(...parts(target))
  }
  return undefined
}

/**
 * Why a runtime folder cannot be used; undefined also when it does not exist yet.
 *
 * @throws what lstat(2) says, other than ENOENT
 */
export function unusable(path: string): string | undefined {
  const self = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  const exposure = exposureOf(path, self)
  if (exposure !== undefined) return exposure
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return undefined
  if (!found.isDirectory()) return `${path} is not a folder`
  if (found.uid !== self.uid) return `${path} belongs to uid ${found.uid}; choose another runtimeDir`
  if ((found.mode & (GROUP_WRITE | OTHER_WRITE)) === 0) return undefined
  const octal = (found.mode & 0o777).toString(8)
  return `${path} is writable by others (mode ${octal}); chmod 700 it`
}

/** Whether the uid is not mapped in this user namespace, like the host's root in a container (user_namespaces(7)). */
function isUnmapped(uid: number): boolean {
  const ranges = readFileSync('/proc/self/uid_map', 'latin1').trim().split('\n')
  return !ranges.some((range) => {
    const [first = 0, , count = 0] = range.trim().split(/\s+/).map(Number)
    return uid >= first && uid < first + count
  })
}

function parts(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.')
}

/**
 * Creates a folder and missing parents. The `recursive` option of mkdirSync hangs if mkdir(2) fails with ENOENT although the
 * parent exists, as below /proc (Node 20 to 24).
 *
 * @throws the error of mkdir(2)
 */
export function makeFolder(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode })
  } catch (error) {
    const errno = errnoOf(error)
    // It may not be a folder; the caller checks.
    if (errno === 'EEXIST') return
    const above = dirname(path)
    if (errno !== 'ENOENT' || above === path || existsSync(above)) throw error
    makeFolder(above, mode)
    try {
      mkdirSync(path, { mode })
    } catch (failure) {
      // ENOENT again if the parent is a dangling symbolic link.
      if (errnoOf(failure) !== 'EEXIST') throw failure
    }
  }
}
