import { statSync } from 'node:fs'
import { basename, dirname, isAbsolute, join, relative } from 'node:path'

/**
 * The working folder as the user entered it: after `cd /srv/app/current`, getcwd(2) may return `/srv/app/releases/7`. A shell keeps
 * the entered path in PWD, which is used if it refers to the actual working folder.
 *
 * @param physical from getcwd(2)
 */
export function logicalFolder(environment: NodeJS.ProcessEnv, physical: string): string {
  const pwd = environment['PWD']
  return pwd !== undefined && isAbsolute(pwd) && isSame(pwd, physical) ? pwd : physical
}

/**
 * Rewrites `path` to go through the symbolic links of `logical`, if it is in a folder that both names of the working folder lead through.
 * npm, and Node for a relative path, give the resolved path of a program rather than the link it was reached by.
 */
export function throughLinks(path: string, logical: string, physical: string): string {
  let [link, target] = [logical, physical]
  while (basename(link) === basename(target) && link !== target && dirname(link) !== link) {
    if (!isSame(dirname(link), dirname(target))) break
    link = dirname(link)
    target = dirname(target)
  }
  const below = relative(target, path)
  if (link === target || below === '' || below.startsWith('..') || isAbsolute(below)) return path
  const mapped = join(link, below)
  return isSame(mapped, path) ? mapped : path
}

/** Whether both paths lead to the same file. */
export function isSame(one: string, other: string): boolean {
  try {
    const [first, second] = [one, other].map((path) => statSync(path, { bigint: true }))
    return first?.dev === second?.dev && first?.ino === second?.ino
  } catch {
    return false
  }
}
