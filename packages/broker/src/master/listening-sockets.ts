import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { OwnedFd } from '@baton/native-sendmsg'
import { type Address, formatAddress, isLoopback } from '../config/address.ts'
import type { Config } from '../config/config.ts'
import { BrokerError } from '../errors.ts'
import {
  modeOfSockets,
  openAdmin,
  openInRuntimeDir,
  isServed,
  openListener,
  prepareRuntimeDir,
  removeSocket,
} from '../listening/sockets.ts'
import type { PassedSockets, WantedSocket } from './systemd/socket-activation.ts'
import { type FileIdentity, identityOf } from './file-identity.ts'

export interface ListeningSocket {
  /** Another one once the socket's file had to be created again (`FilesOnDisk`). */
  fd: OwnedFd
  /** As configured: where it says port 0, the kernel has chosen one, and a reload keeps that. */
  readonly address: Address
  /** The service manager has bound it, and takes its name away. */
  readonly given?: boolean | undefined
  /** Of its file, when it has one that is ours. */
  file?: FileIdentity | undefined
}

/** A `ListeningSocket` by its number. */
interface ListeningSocketState {
  readonly fd: number
  readonly address: Address
  readonly given?: boolean | undefined
  readonly file?: FileIdentity | undefined
}

/** What crosses the master's exec. */
export interface ListeningSocketsState {
  readonly listeners: readonly (ListeningSocketState & { readonly name: string })[]
  readonly admin: ListeningSocketState
  readonly control: number
  readonly operator: number
  /** Absent in the state of an older program. */
  readonly files?: {
    readonly control?: FileIdentity | undefined
    readonly operator?: FileIdentity | undefined
  }
}

/** What a reload does to the sockets: either is called, once. */
export interface SocketsChange {
  readonly sockets: ListeningSockets
  /** Names of listeners, as they were, whose sockets nobody serves any more. */
  readonly removed: readonly string[]
  /** Closes what is not needed any more. */
  commit(): void
  /** Closes what was opened for the change. */
  rollBack(): void
}

/**
 * Every listening socket of a broker: of clients by the name of the listener, of the admin server, and the two in
 * `runtimeDir`, on which backends and operators connect. They outlive workers, and programs. Their single owner.
 */
export class ListeningSockets {
  readonly listeners: ReadonlyMap<string, ListeningSocket>
  readonly admin: ListeningSocket
  /** On which backends register. */
  readonly control: ListeningSocket
  /** On which the operator's commands come. */
  readonly operator: ListeningSocket

  /**
   * Opens all of them, or none. To be called with the lock of `runtimeDir`. Takes out of `given` what need not be opened.
   *
   * @throws {BrokerError} BATON_ERR_LISTEN, BATON_ERR_RUNTIME_DIR, BATON_ERR_ALREADY_RUNNING
   * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
   */
  static open(config: Config, given?: PassedSockets): ListeningSockets {
    // Only a master has this one open. The lock alone does not prove that there is none: its file may have been removed.
    if (isServed(operatorPath(config))) {
      throw new BrokerError('BATON_ERR_ALREADY_RUNNING', operatorPath(config))
    }
    const opened: OwnedFd[] = []
    const keep = (fd: OwnedFd) => {
      opened.push(fd)
      return fd
    }
    try {
      const found = given?.assign(wantedBy(config)) ?? []
      for (const fd of found) if (fd !== undefined) keep(fd)
      const use = (index: number, address: Address, open: () => OwnedFd): ListeningSocket => {
        const fd = found[index]
        return fd === undefined ? named(keep(open()), address) : { fd, address, given: true }
      }
      prepareRuntimeDir(config)
      const mode = modeOfSockets(config)
      // Nobody serves them: the lock is ours. A worker whose master was killed may still have one open.
      removeSocket(controlPath(config))
      removeSocket(operatorPath(config))
      const open = (path: string) => named(keep(openInRuntimeDir(path, mode)), { kind: 'unix', path })
      const control = open(controlPath(config))
      const operator = open(operatorPath(config))
      const listeners = new Map<string, ListeningSocket>()
      for (const [index, listener] of config.listeners.entries()) {
        const held = use(index, listener.listen, () => openListener(listener))
        listeners.set(listener.name, held)
      }
      const admin = use(config.listeners.length, config.admin.listen, () => openAdmin(config))
      return new ListeningSockets(listeners, admin, control, operator)
    } catch (error) {
      for (const fd of opened) fd.close()
      removeSocket(controlPath(config))
      removeSocket(operatorPath(config))
      throw error
    }
  }

  static restore(state: ListeningSocketsState, config: Pick<Config, 'runtimeDir'>): ListeningSockets {
    const inRuntimeDir = (fd: number, path: string, file: FileIdentity | undefined) =>
      inherited({ fd, address: { kind: 'unix', path }, file })
    return new ListeningSockets(
      new Map(state.listeners.map((listener) => [listener.name, inherited(listener)])),
      inherited(state.admin),
      inRuntimeDir(state.control, controlPath(config), state.files?.control),
      inRuntimeDir(state.operator, operatorPath(config), state.files?.operator),
    )
  }

  private constructor(
    listeners: ReadonlyMap<string, ListeningSocket>,
    admin: ListeningSocket,
    control: ListeningSocket,
    operator: ListeningSocket,
  ) {
    this.listeners = listeners
    this.admin = admin
    this.control = control
    this.operator = operator
  }

  get state(): ListeningSocketsState {
    return {
      listeners: [...this.listeners].map(([name, held]) => ({ ...held, name, fd: held.fd.fd })),
      admin: { ...this.admin, fd: this.admin.fd.fd },
      control: this.control.fd.fd,
      operator: this.operator.fd.fd,
      files: { control: this.control.file, operator: this.operator.file },
    }
  }

  /**
   * What another configuration needs: a socket of the same address goes on whatever its listener is called now, the others are
   * opened.
   *
   * @throws as `open`, and then nothing has changed
   */
  change(config: Config): SocketsChange {
    const opened: ListeningSocket[] = []
    const rollBack = () => {
      for (const held of opened) release(held)
    }
    try {
      const unused = new Map(this.listeners)
      const listeners = new Map<string, ListeningSocket>()
      const open = (fd: OwnedFd, address: Address) => {
        const held = named(fd, address)
        opened.push(held)
        return held
      }
      for (const { name, listen } of config.listeners) {
        const [before, held] = findSame(unused, name, listen) ?? []
        if (before !== undefined) unused.delete(before)
        listeners.set(name, held ?? open(openListener({ name, listen }), listen))
      }
      const same = formatAddress(this.admin.address) === formatAddress(config.admin.listen)
      const admin = same ? this.admin : open(openAdmin(config), config.admin.listen)
      return {
        sockets: new ListeningSockets(listeners, admin, this.control, this.operator),
        removed: [...unused.keys()],
        commit: () => {
          for (const held of unused.values()) release(held)
          if (!same) release(this.admin)
          prepareRuntimeDir(config)
          for (const path of [controlPath(config), operatorPath(config)])
            chmodSync(path, modeOfSockets(config))
        },
        rollBack,
      }
    } catch (error) {
      rollBack()
      throw error
    }
  }

  /** One more listener. */
  add(name: string, fd: OwnedFd, address: Address): ListeningSockets {
    const listeners = new Map([...this.listeners, [name, named(fd, address)]])
    return new ListeningSockets(listeners, this.admin, this.control, this.operator)
  }

  /** No more clients: a worker has its own copies, and takes what waits in their queues. */
  closeListeners(): void {
    for (const held of this.listeners.values()) release(held)
  }

  /** Everything, and the names in `runtimeDir`. */
  close(): void {
    this.closeListeners()
    release(this.admin)
    release(this.control)
    release(this.operator)
  }
}

export function controlPath({ runtimeDir }: Pick<Config, 'runtimeDir'>): string {
  return join(runtimeDir, 'control.sock')
}

export function operatorPath({ runtimeDir }: Pick<Config, 'runtimeDir'>): string {
  return join(runtimeDir, 'master.sock')
}

/** In the order of the listeners, and the admin server's behind them. */
function wantedBy({ listeners, admin }: Config): WantedSocket[] {
  return [
    ...listeners.map(({ name, listen }) => ({ name, address: listen })),
    {
      name: 'admin',
      address: admin.listen,
      // What the configuration would not be allowed to say, a socket of that name may not do either.
      accepts: (bound) => admin.token !== null || isLoopback(bound),
    },
  ]
}

function inherited({ fd, address, given, file }: ListeningSocketState): ListeningSocket {
  if (file === undefined) return named(new OwnedFd(fd), address, given)
  return { fd: new OwnedFd(fd), address, given, file }
}

/** With the file that its address names now. */
function named(fd: OwnedFd, address: Address, given?: boolean): ListeningSocket {
  const file = address.kind === 'unix' && given !== true ? identityOf(address.path) : undefined
  return { fd, address, given, file }
}

/** By its name first: two listeners may both say port 0. */
function findSame(
  among: ReadonlyMap<string, ListeningSocket>,
  name: string,
  listen: Address,
): [string, ListeningSocket] | undefined {
  const text = formatAddress(listen)
  const own = among.get(name)
  if (own !== undefined && formatAddress(own.address) === text) return [name, own]
  if (listen.kind === 'tcp' && listen.port === 0) return undefined
  return [...among].find(([, { address }]) => formatAddress(address) === text)
}

/** A second call does nothing. */
function release({ fd, address, file }: ListeningSocket): void {
  if (fd.closed) return
  const own = address.kind === 'unix' && file !== undefined && identityOf(address.path) === file
  fd.close()
  // Another file of that name may be another broker's.
  if (own) removeSocket(address.path)
}
