import { fstatSync, lstatSync, statSync } from 'node:fs'

/** Device and inode of a file. The kernel does not reuse the inode while a descriptor or a socket holds the file. */
export type FileIdentity = string

/**
 * Identity of the file at `path`, without following a symbolic link. Undefined when it does not exist.
 *
 * @throws errors of lstat(2) other than ENOENT and ENOTDIR
 */
export function identityOf(path: string): FileIdentity | undefined {
  try {
    return textOf(lstatSync(path, { bigint: true }))
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

/** Identity of the folder at `path`, following symbolic links. Undefined when it does not exist or is not a folder. */
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
