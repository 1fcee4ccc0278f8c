import {
  chmodSync,
  chownSync,
  type FSWatcher,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  unlinkSync,
  watch,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { lockFile, type OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { formatAddress } from '../config/address.ts'
import { BrokerError } from '../errors.ts'
import {
  modeOfFolder,
  modeOfSockets,
  openAdmin,
  openInRuntimeDir,
  openListener,
  prepareRuntimeDir,
  removeSocket,
} from '../listening/sockets.ts'
import type { Counters } from './workers/counters.ts'
import { type FileIdentity, identityOf, identityOfFolder, identityOfOpen } from './file-identity.ts'
import type { ListeningSocket } from './listening-sockets.ts'
import type { ActiveConfig } from './active-config.ts'
import type { Operator } from './operator/operator.ts'
import type { WorkerPool } from './workers/worker-pool.ts'
import { Occasion } from '../supervise/occasion.ts'

/** How often every file is checked, in ms. inotify may be unavailable or exhausted, and does not report that a link in the path has moved. */
const CHECK_INTERVAL_MS = 1000

const LOCK_MODE = 0o600

/** Delay from a change in `runtimeDir` to the check, in ms: a cleaner removes several files at a time. */
const CHANGE_DELAY_MS = 20

export interface FilesOnDiskParts {
  readonly activeConfig: ActiveConfig
  readonly workerPool: Pick<WorkerPool, 'isServing' | 'orders'>
  readonly operator: Pick<Operator, 'replaceSocket'>
  readonly counters: Pick<Counters, 'fileRestored'>
  readonly logger: Logger
  /** The configuration file is Baton's own (`baton run`), so it is recreated as well. */
  readonly ownsFile: boolean
}

export function lockPath({ runtimeDir }: { readonly runtimeDir: string }): string {
  return join(runtimeDir, 'lock')
}

/**
 * Keeps the files that a running broker needs: `runtimeDir`, the lock and the sockets in it, and the files of `unix:` addresses. Cleaners of
 * temporary folders remove such files while they are in use. A file that is missing or was replaced is created again.
 *
 * The order matters: the lock needs the folder, and without the lock the names in the folder belong to whichever master holds
 * it. A listening socket cannot be bound to a second name, so each is replaced by a new one, and the old one is closed once
 * its accept queue is empty.
 *
 * Owner of the lock.
 */
export class FilesOnDisk {
  readonly #parts: FilesOnDiskParts
  #lock: OwnedFd
  #problem: string | undefined
  readonly #checks = new Occasion(CHECK_INTERVAL_MS, () => void this.#check(false))
  #soon: NodeJS.Timeout | undefined
  #watcher: FSWatcher | undefined
  #watched: FileIdentity | undefined
  /** `runtimeDir` when it was last known to be ours. */
  #folder: FileIdentity | undefined
  /** Mode and owner of the folders of `unix:` addresses, for recreating them. */
  readonly #folders = new Map<string, { mode: number; uid: number; gid: number }>()

  constructor(lock: OwnedFd, parts: FilesOnDiskParts) {
    this.#lock = lock
    this.#parts = parts
  }

  /** The lock's current descriptor number. */
  get lock(): number {
    return this.#lock.fd
  }

  start(): void {
    this.#folder = currentFolder(this.#parts.activeConfig.config.runtimeDir)
    this.#checks.start()
    this.#check(false)
  }

  /** This process is awake: a check that is due is made now. */
  awake(): void {
    void this.#checks.awake()
  }

  /**
   * Checks and restores everything now.
   *
   * @throws {BrokerError} BATON_ERR_FILES_MISSING
   */
  ensure(): void {
    const problem = this.#check(true)
    if (problem !== undefined) throw new BrokerError('BATON_ERR_FILES_MISSING', problem)
  }

  /** Releases the lock. The files stay. */
  close(): void {
    this.#checks.stop()
    clearTimeout(this.#soon)
    this.#soon = undefined
    this.#watcher?.close()
    this.#watcher = undefined
    this.#lock.close()
  }

  /** @returns what could not be restored */
  #check(now: boolean): string | undefined {
    const problem = this.#restore(now)
    this.#watchFolder()
    if (problem !== undefined && problem !== this.#problem) {
      this.#parts.logger.error(
        { reason: problem },
        'a file that the broker needs is gone and cannot be created; trying again every second',
      )
    }
    this.#problem = problem
    return problem
  }

  /** @param now also replace the workers' sockets while no worker is serving that could accept what is queued on the old ones */
  #restore(now: boolean): string | undefined {
    const { activeConfig, workerPool, operator } = this.#parts
    const { config, sockets } = activeConfig
    const problems: string[] = []
    const succeeds = (path: string, work: () => void): boolean => {
      try {
        work()
        return true
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error)
        problems.push(message.includes(path) ? message : `${path}: ${message}`)
        return false
      }
    }
    const served = now || workerPool.isServing
    const own =
      succeeds(config.runtimeDir, () => this.#restoreFolder()) &&
      succeeds(lockPath(config), () => this.#restoreLock())
    if (own) {
      const restore = (socket: ListeningSocket, give: (fd: OwnedFd) => void) =>
        succeeds(pathOf(socket), () => {
          this.#restoreSocket(socket, give, (path) => {
            makeRoom(path)
            return openInRuntimeDir(path, modeOfSockets(config))
          })
          this.#restoreAccess(pathOf(socket), modeOfSockets(config))
        })
      restore(sockets.operator, (fd) => operator.replaceSocket(fd))
      if (served) restore(sockets.control, (fd) => workerPool.orders.replaceSocket('control', undefined, fd))
    }
    if (served) {
      for (const [name, socket] of sockets.listeners) {
        const { address } = socket
        succeeds(formatAddress(address), () =>
          this.#restoreSocket(
            socket,
            (fd) => workerPool.orders.replaceSocket('listener', name, fd),
            () => openListener({ name, listen: address }),
          ),
        )
      }
      succeeds(formatAddress(sockets.admin.address), () =>
        this.#restoreSocket(
          sockets.admin,
          (fd) => workerPool.orders.replaceSocket('admin', undefined, fd),
          () => openAdmin(config),
        ),
      )
    }
    if (this.#parts.ownsFile) succeeds(activeConfig.settings.file, () => this.#restoreConfiguration())
    return problems.length === 0 ? undefined : problems.join('; ')
  }

  #restoreFolder(): void {
    const { config } = this.#parts.activeConfig
    const found = identityOfFolder(config.runtimeDir)
    if (found !== undefined && found === this.#folder) {
      return this.#restoreAccess(config.runtimeDir, modeOfFolder(config))
    }
    prepareRuntimeDir(config)
    this.#folder = identityOfFolder(config.runtimeDir)
    this.#restored(config.runtimeDir)
  }

  /**
   * Restores owner and mode when this user can no longer use the file, or when users can who should not. Stricter permissions that the
   * operator has set for others on a shared socket are kept.
   */
  #restoreAccess(path: string, wanted: number): void {
    const { uid, mode } = statSync(path)
    const self = process.getuid?.()
    const bits = mode & 0o777
    const access = (bits | (wanted & 0o700)) & wanted
    if (uid === self && bits === access) return
    const found = { uid, mode: bits.toString(8).padStart(4, '0') }
    if (uid !== self) {
      if (self !== 0) throw new Error(`${path} now belongs to uid ${uid}`)
      chownSync(path, 0, -1)
    }
    chmodSync(path, (mode & ~0o777) | access)
    this.#parts.counters.fileRestored()
    this.#parts.logger.warn(
      { path, ...found },
      'owner or mode of a file that the broker needs was changed; restored them',
    )
  }

  #restoreLock(): void {
    const path = lockPath(this.#parts.activeConfig.config)
    if (identityOf(path) === identityOfOpen(this.#lock.fd)) return this.#restoreAccess(path, LOCK_MODE)
    if (lstatSync(path, { throwIfNoEntry: false })?.isFile() === false) makeRoom(path)
    // Our lock is on a file that no longer has this name. The process that locks the file of this name owns the folder.
    const lock = lockFile(path)
    if (lock === undefined) throw new BrokerError('BATON_ERR_ALREADY_RUNNING', path)
    this.#lock.close()
    this.#lock = lock
    this.#restored(path)
  }

  #restoreSocket(
    socket: ListeningSocket,
    give: (fd: OwnedFd) => void,
    open: (path: string) => OwnedFd,
  ): void {
    const { address, given, fd: former } = socket
    if (address.kind !== 'unix' || given === true || former.closed) return
    const { path } = address
    const found = identityOf(path)
    if (found !== undefined && found === socket.file) {
      this.#rememberFolder(dirname(path))
      return
    }
    this.#restoreFolderOf(path)
    const fd = open(path)
    try {
      give(fd)
    } catch (error) {
      fd.close()
      removeSocket(path)
      throw error
    }
    socket.fd = fd
    socket.file = identityOf(path)
    former.close()
    this.#restored(path)
  }

  #rememberFolder(folder: string): void {
    if (this.#folders.has(folder)) return
    const { mode, uid, gid } = statSync(folder)
    this.#folders.set(folder, { mode: mode & 0o7777, uid, gid })
  }

  /** With the mode and owner it had: a listener's folder decides who can connect. */
  #restoreFolderOf(path: string): void {
    const folder = dirname(path)
    const before = this.#folders.get(folder)
    if (before === undefined || identityOfFolder(folder) !== undefined) return
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    if (process.getuid?.() === 0) chownSync(folder, before.uid, before.gid)
    chmodSync(folder, before.mode)
    this.#restored(folder)
  }

  #restoreConfiguration(): void {
    const { file, text } = this.#parts.activeConfig.settings
    // An empty file was truncated, or could not be written.
    if ((lstatSync(file, { throwIfNoEntry: false })?.size ?? 0) > 0) return
    const whole = `${file}.new`
    try {
      writeFileSync(whole, text)
      renameSync(whole, file)
    } catch (error) {
      // A full disk: an incomplete copy must not stay.
      rmSync(whole, { force: true })
      throw error
    }
    this.#restored(file)
  }

  #restored(path: string): void {
    this.#parts.counters.fileRestored()
    this.#parts.logger.warn(
      { path },
      'a file that the broker needs was removed or replaced; created it again',
    )
  }

  /** Detects most removals at once. Without inotify, the next check does. */
  #watchFolder(): void {
    const { runtimeDir } = this.#parts.activeConfig.config
    const folder = currentFolder(runtimeDir)
    if (folder === undefined || (folder === this.#watched && this.#watcher !== undefined)) return
    this.#watcher?.close()
    this.#watched = folder
    try {
      this.#watcher = watch(runtimeDir, { persistent: false }, () => {
        this.#soon ??= setTimeout(() => {
          this.#soon = undefined
          this.#check(false)
        }, CHANGE_DELAY_MS)
      })
      this.#watcher.on('error', () => {})
    } catch {
      this.#watcher = undefined
    }
  }
}

/** The folder is private and the lock is ours, so a socket there is not another broker's. Anything else is renamed. */
function makeRoom(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found?.isSocket() === true) unlinkSync(path)
  else if (found !== undefined) renameSync(path, unusedName(`${path}.replaced`))
}

function unusedName(path: string): string {
  let name = path
  for (let number = 2; lstatSync(name, { throwIfNoEntry: false }) !== undefined; number += 1)
    name = `${path}-${number}`
  return name
}

function pathOf({ address }: ListeningSocket): string {
  return address.kind === 'unix' ? address.path : ''
}

function currentFolder(path: string): FileIdentity | undefined {
  try {
    return identityOfFolder(path)
  } catch {
    return undefined
  }
}
