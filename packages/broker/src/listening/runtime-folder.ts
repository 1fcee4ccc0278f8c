import { existsSync, lstatSync, mkdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { errnoOf } from '../config/index.ts'

/** As the kernel's own limit on links in one path (path_resolution(7)). */
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
 * Whether other users can put another folder in place of `path`: one above it is theirs, or can be written to by them, and lacks the sticky
 * bit, or has it and the entry that leads to `path` is theirs (unlink(2), rename(2)). Follows each link, which is an entry as well.
 *
 * A group may write where it is root's, or this user's own (gid and uid are the same number, as useradd(8) makes them).
 *
 * @param path absolute; the end of it may not exist yet
 * @returns what is wrong, or undefined
 * @throws what lstat(2) says, other than ENOENT
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
    if (owner !== uid && owner !== 0 && !isOutside(owner))
      return `${folder} belongs to uid ${owner}, who can replace ${entry}; name another runtimeDir`
    const groupIsOurs = group === 0 || (group === gid && gid === uid)
    const writable = (mode & OTHER_WRITE) !== 0 || ((mode & GROUP_WRITE) !== 0 && !groupIsOurs)
    if (writable && (mode & STICKY) === 0) {
      const octal = (mode & 0o7777).toString(8)
      return `${folder} can be written to by others (mode ${octal}), who can replace ${entry}; chmod +t it, or name another runtimeDir`
    }
    if (writable && found !== undefined && found.uid !== uid && found.uid !== 0) {
      return `${entry} belongs to uid ${found.uid}, in a folder that others may write to; name another runtimeDir`
    }
    if (found === undefined) return undefined
    if (!found.isSymbolicLink()) {
      folder = entry
      continue
    }
    links += 1
    if (links > MAX_LINKS) return `${path} has too many links`
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
  if (found.uid !== self.uid) return `${path} belongs to uid ${found.uid}; name another one as runtimeDir`
  if ((found.mode & (GROUP_WRITE | OTHER_WRITE)) === 0) return undefined
  const octal = (found.mode & 0o777).toString(8)
  return `${path} can be written to by others (mode ${octal}); chmod 700 it`
}

/** Whether the number stands for users that this user namespace does not have, such as root of the host (user_namespaces(7)). */
function isOutside(uid: number): boolean {
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
 * Makes a folder and those above it that are missing. `recursive` of mkdirSync does not return where mkdir(2) answers ENOENT although
 * the folder above is there, as below /proc (Node 20 to 24).
 *
 * @throws {Error} of mkdir(2)
 */
export function makeFolder(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode })
  } catch (error) {
    const errno = errnoOf(error)
    // What is there may be something else: the caller looks.
    if (errno === 'EEXIST') return
    const above = dirname(path)
    if (errno !== 'ENOENT' || above === path || existsSync(above)) throw error
    makeFolder(above, mode)
    try {
      mkdirSync(path, { mode })
    } catch (failure) {
      // Again ENOENT where the one above is a link to nothing.
      if (errnoOf(failure) !== 'EEXIST') throw failure
    }
  }
}
