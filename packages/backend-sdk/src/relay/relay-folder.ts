import { chmodSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { lockFolder, NativeError, type OwnedFd } from '@baton/native-sendmsg'

const PREFIX = 'baton-relay-'

/** As long as each folder's name: mkdtemp(3) appends six characters. */
export const FOLDER_NAME = `${PREFIX}XXXXXX`

/** Folders that other processes take for abandoned and remove before they are locked: hardly ever one. */
const MAX_ATTEMPTS = 10

const PRIVATE = 0o700

/** Other users may connect to sockets in the folder, but not list or change it. */
const SHARED = 0o711

/**
 * A folder `baton-relay-*` for the socket of one endpoint. It is locked (flock(2)) for as long as its process lives, and by that the
 * folder of a killed process is recognized. A socket that refuses connections would prove nothing: its process may just be starting.
 * Cleaners such as systemd-tmpfiles(8) leave a locked folder alone, too.
 */
export class RelayFolder {
  readonly path: string
  readonly #mode: number
  /** Undefined on a file system without locks, where no process removes another one's folder. */
  #lock: OwnedFd | undefined

  /**
   * Removes the folders of killed processes of this user in `temporary`, and creates one there.
   *
   * @param shared processes of other users connect to its socket
   * @throws the error of mkdtemp(3), open(2) or chmod(2), or EBUSY
   */
  static async create(temporary: string, shared: boolean): Promise<RelayFolder> {
    await removeAbandoned(temporary)
    for (let attempt = 1; ; attempt += 1) {
      const folder = new RelayFolder(mkdtempSync(join(temporary, PREFIX)), shared ? SHARED : PRIVATE)
      if (folder.#prepare()) return folder
      if (attempt === MAX_ATTEMPTS) throw beingRemoved(folder.path)
    }
  }

  private constructor(path: string, mode: number) {
    this.path = path
    this.#mode = mode
  }

  /**
   * Creates it again if it is gone: a cleaner of temporary folders may have removed it.
   *
   * @throws the error of mkdir(2), open(2) or chmod(2), or EBUSY; to be tried again
   */
  restore(): void {
    if (lstatSync(this.path, { throwIfNoEntry: false }) === undefined) {
      mkdirSync(this.path, { mode: PRIVATE })
      this.#lock?.close()
      this.#lock = undefined
    }
    if (this.#lock !== undefined || this.#prepare()) return
    throw beingRemoved(this.path)
  }

  /** If there is anything in it, it stays. Idempotent; never throws. */
  remove(): void {
    removeFolder(this.path)
    this.#lock?.close()
    this.#lock = undefined
  }

  /** Returns false if another process has found the new folder before it was locked, and removes it. */
  #prepare(): boolean {
    try {
      const lock = lockOf(this.path)
      if (lock === 'taken') return false
      this.#lock = lock
      if (this.#mode !== PRIVATE) chmodSync(this.path, this.#mode)
      return true
    } catch (error) {
      this.remove()
      throw error
    }
  }
}

function beingRemoved(path: string): Error {
  return Object.assign(new Error(`${path} is being removed`), { code: 'EBUSY' })
}

/** Undefined if the file system has no locks. */
function lockOf(path: string): OwnedFd | 'taken' | undefined {
  try {
    return lockFolder(path) ?? 'taken'
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    if (error.code === 'ENOENT') return 'taken'
    if (error.syscall === 'flock') return undefined
    throw error
  }
}

/** Never throws: a folder left behind is harmless. */
async function removeAbandoned(temporary: string): Promise<void> {
  // There may be thousands of names.
  const names = await readdir(temporary).catch(() => [])
  for (const name of names) {
    if (!name.startsWith(PREFIX)) continue
    try {
      removeIfAbandoned(join(temporary, name))
    } catch {
      // Removed meanwhile, or no descriptor is left.
    }
  }
}

/** Leaves alone what is not a folder, such as a link to one, and what another user owns. */
function removeIfAbandoned(path: string): void {
  const found = lstatSync(path)
  if (!found.isDirectory() || found.uid !== process.geteuid?.()) return
  const lock = lockOf(path)
  if (lock === 'taken' || lock === undefined) return
  try {
    // Not by its path, which may lead elsewhere by now where others may rename folders.
    const content = `/proc/self/fd/${lock.fd}`
    for (const name of readdirSync(content)) {
      const file = join(content, name)
      if (lstatSync(file).isSocket()) unlinkSync(file)
    }
    removeFolder(path)
  } finally {
    lock.close()
  }
}

function removeFolder(path: string): void {
  try {
    rmdirSync(path)
  } catch {
    // Already gone, or something in it is not ours.
  }
}
