import { statSync } from 'node:fs'
import { basename, dirname, isAbsolute, join, relative } from 'node:path'

/**
 * The working folder as it was entered: `cd /srv/app/current` makes it that, and getcwd(2) says `/srv/app/releases/7`. A shell keeps it
 * in PWD, which is believed where it names the folder that this process is in.
 *
 * @param physical from getcwd(2)
 */
export function logicalFolder(environment: NodeJS.ProcessEnv, physical: string): string {
  const pwd = environment['PWD']
  return pwd !== undefined && isAbsolute(pwd) && isSame(pwd, physical) ? pwd : physical
}

/**
 * `path` by way of the links of `logical`, where it lies in a folder that both names lead through: npm, and Node for a relative path,
 * name a program by where it is, and not by the link through which it was reached.
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

/** Whether both lead to the same file. */
export function isSame(one: string, other: string): boolean {
  try {
    const [first, second] = [one, other].map((path) => statSync(path, { bigint: true }))
    return first?.dev === second?.dev && first?.ino === second?.ino
  } catch {
    return false
  }
}
