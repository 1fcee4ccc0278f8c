import { fstatSync, lstatSync, statSync } from 'node:fs'

/** Device and inode of a file. While a descriptor or a socket holds the file, the kernel gives the inode to no other. */
export type FileIdentity = string

/**
 * The file of this very name; a link is not followed. Undefined when there is none.
 *
 * @throws what lstat(2) says, other than that nothing is there
 */
export function identityOf(path: string): FileIdentity | undefined {
  try {
    return textOf(lstatSync(path, { bigint: true }))
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/** Of the folder that `path` leads to, whatever links are on the way; undefined when none is there. */
export function identityOfFolder(path: string): FileIdentity | undefined {
  try {
    const found = statSync(path, { bigint: true })
    return found.isDirectory() ? textOf(found) : undefined
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

export function identityOfOpen(fd: number): FileIdentity {
  return textOf(fstatSync(fd, { bigint: true }))
}

function textOf({ dev, ino }: { readonly dev: bigint; readonly ino: bigint }): FileIdentity {
  return `${dev}:${ino}`
}

function isMissing(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')
}
