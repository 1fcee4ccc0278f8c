import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { OwnedFd } from '@baton/native-sendmsg'
import { type Address, formatAddress, isLoopback } from '../config/address.ts'
import type { Config } from '../config/config.ts'
import { BrokerError } from '../errors.ts'
import {
  modeOfSockets,
  openAdmin,
  openAgentCheck,
  openInRuntimeDir,
  isServed,
  openListener,
  prepareRuntimeDir,
  removeSocket,
} from '../listening/sockets.ts'
import type { OwnSocket } from './systemd/manager-store.ts'
import type { PassedSockets, WantedSocket } from './systemd/socket-activation.ts'
import { type FileIdentity, identityOf } from './file-identity.ts'

export interface ListeningSocket {
  /** Replaced when the socket's file had to be recreated (`FilesOnDisk`). */
  fd: OwnedFd
  /** As configured. With port 0 the kernel has chosen a port, which a reload keeps. */
  readonly address: Address
  /** The service manager has bound it, and removes its file. */
  readonly given?: boolean | undefined
  /** Identity of its file, if it has one that is ours. */
  file?: FileIdentity | undefined
}

/** A `ListeningSocket` with its descriptor as a number. */
interface ListeningSocketState {
  readonly fd: number
  readonly address: Address
  readonly given?: boolean | undefined
  readonly file?: FileIdentity | undefined
}

/** State that crosses the master's exec. */
export interface ListeningSocketsState {
  readonly listeners: readonly (ListeningSocketState & { readonly name: string })[]
  readonly admin: ListeningSocketState
  /** Absent if agent checks are not configured, and in the state of an older version. */
  readonly agentCheck?: ListeningSocketState | undefined
  readonly control: number
  readonly operator: number
  /** Absent in the state of an older version. */
  readonly files?: {
    readonly control?: FileIdentity | undefined
    readonly operator?: FileIdentity | undefined
  }
}

/** A change of the sockets by a reload. Call either `commit` or `rollBack`, once. */
export interface SocketsChange {
  readonly sockets: ListeningSockets
  /** Former names of the listeners whose sockets are no longer served. */
  readonly removed: readonly string[]
  /** Closes what is no longer needed. */
  commit(): void
  /** Closes what was opened for the change. */
  rollBack(): void
}

/**
 * Every listening socket of a broker: one per listener, the admin server's, that of agent checks, and two in `runtimeDir`, for backends and
 * operators.
 * They outlive workers, and the program in a reload. Their single owner.
 */
export class ListeningSockets {
  readonly listeners: ReadonlyMap<string, ListeningSocket>
  readonly admin: ListeningSocket
  /** Backends register here. */
  readonly control: ListeningSocket
  /** Operators connect here. */
  readonly operator: ListeningSocket
  /** Load balancers check here. */
  readonly agentCheck: ListeningSocket | undefined

  /**
   * Opens all of them, or none. The caller holds the lock of `runtimeDir`. Sockets that match are taken from `given` instead.
   *
   * @throws {BrokerError} BATON_ERR_LISTEN, BATON_ERR_RUNTIME_DIR, BATON_ERR_ALREADY_RUNNING
   * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
   */
  static open(config: Config, given?: PassedSockets): ListeningSockets {
    // Only a master has this socket open. The lock alone does not prove that there is none: its file may have been removed.
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
      for (const socket of found) if (socket !== undefined) keep(socket.fd)
      const use = (index: number, address: Address, open: () => OwnedFd): ListeningSocket => {
        const socket = found[index]
        return socket === undefined ? named(keep(open()), address) : named(socket.fd, address, socket.given)
      }
      prepareRuntimeDir(config)
      const mode = modeOfSockets(config)
      // The lock is ours, so no master serves these. A worker whose master was killed may still have one open.
      removeSocket(controlPath(config))
      removeSocket(operatorPath(config))
      const open = (path: string) => named(keep(openInRuntimeDir(path, mode)), { kind: 'unix', path })
      const control = open(controlPath(config))
      const operator = open(operatorPath(config))
      const listeners = new Map<string, ListeningSocket>()
      for (const [index, listener] of config.listeners.entries()) {
        const socket = use(index, listener.listen, () => openListener(listener))
        listeners.set(listener.name, socket)
      }
      const admin = use(config.listeners.length, config.admin.listen, () => openAdmin(config))
      const { agentCheck: wanted } = config
      const next = config.listeners.length + 1
      const agentCheck = wanted === null ? undefined : use(next, wanted, () => openAgentCheck(wanted))
      return new ListeningSockets(listeners, admin, control, operator, agentCheck)
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
      state.agentCheck && inherited(state.agentCheck),
    )
  }

  private constructor(
    listeners: ReadonlyMap<string, ListeningSocket>,
    admin: ListeningSocket,
    control: ListeningSocket,
    operator: ListeningSocket,
    agentCheck: ListeningSocket | undefined,
  ) {
    this.listeners = listeners
    this.admin = admin
    this.control = control
    this.operator = operator
    this.agentCheck = agentCheck
  }

  get state(): ListeningSocketsState {
    return {
      listeners: [...this.listeners].map(([name, socket]) => ({ ...socket, name, fd: socket.fd.fd })),
      admin: { ...this.admin, fd: this.admin.fd.fd },
      ...(this.agentCheck && { agentCheck: { ...this.agentCheck, fd: this.agentCheck.fd.fd } }),
      control: this.control.fd.fd,
      operator: this.operator.fd.fd,
      files: { control: this.control.file, operator: this.operator.file },
    }
  }

  /**
   * Opens what another configuration needs. A socket with the same address is kept, even if its listener has another name now.
   *
   * @throws as `open`; then nothing has changed
   */
  change(config: Config): SocketsChange {
    const opened: ListeningSocket[] = []
    const rollBack = () => {
      for (const socket of opened) release(socket)
    }
    try {
      const unused = new Map(this.listeners)
      const listeners = new Map<string, ListeningSocket>()
      const open = (fd: OwnedFd, address: Address) => {
        const socket = named(fd, address)
        opened.push(socket)
        return socket
      }
      for (const { name, listen } of config.listeners) {
        const [before, socket] = findSame(unused, name, listen) ?? []
        if (before !== undefined) unused.delete(before)
        listeners.set(name, socket ?? open(openListener({ name, listen }), listen))
      }
      const same = formatAddress(this.admin.address) === formatAddress(config.admin.listen)
      const admin = same ? this.admin : open(openAdmin(config), config.admin.listen)
      const { agentCheck: before } = this
      const { agentCheck: wanted } = config
      const isKept =
        before !== undefined && wanted !== null && formatAddress(before.address) === formatAddress(wanted)
      const opens = wanted === null ? undefined : () => open(openAgentCheck(wanted), wanted)
      const agentCheck = isKept ? before : opens?.()
      return {
        sockets: new ListeningSockets(listeners, admin, this.control, this.operator, agentCheck),
        removed: [...unused.keys()],
        commit: () => {
          for (const socket of unused.values()) release(socket)
          if (!same) release(this.admin)
          if (before !== undefined && !isKept) release(before)
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

  /** These sockets and one more listener. Takes ownership of `fd`. */
  add(name: string, fd: OwnedFd, address: Address): ListeningSockets {
    const listeners = new Map([...this.listeners, [name, named(fd, address)]])
    return new ListeningSockets(listeners, this.admin, this.control, this.operator, this.agentCheck)
  }

  /** Those that clients and operators connect to, and that this broker has opened itself. */
  get own(): readonly OwnSocket[] {
    const all = [
      ...[...this.listeners].map(([name, socket]) => ({ name, socket })),
      { name: 'admin', socket: this.admin },
      ...(this.agentCheck === undefined ? [] : [{ name: 'agentCheck', socket: this.agentCheck }]),
    ]
    return all.flatMap(({ name, socket: { given, address, fd } }) =>
      given === true || fd.closed ? [] : [{ name, address, fd }],
    )
  }

  /**
   * Stops accepting clients here. Workers have their own copies, and accept what is still queued.
   *
   * @param isLeft the next start gets them from the service manager: their files stay
   */
  closeListeners(isLeft = false): void {
    for (const socket of this.listeners.values()) release(socket, isLeft)
  }

  /** Closes every socket and removes the files in `runtimeDir`. @param isLeft see `closeListeners` */
  close(isLeft = false): void {
    this.closeListeners(isLeft)
    release(this.admin, isLeft)
    if (this.agentCheck !== undefined) release(this.agentCheck, isLeft)
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

/** The listeners in order, then the admin server, then agent checks. */
export function wantedBy({ listeners, admin, agentCheck }: Config): WantedSocket[] {
  return [
    ...listeners.map(({ name, listen }) => ({ name, address: listen })),
    {
      name: 'admin',
      address: admin.listen,
      // As in the configuration, only loopback is allowed without a token.
      accepts: (bound) => admin.token !== null || isLoopback(bound),
    },
    ...(agentCheck === null ? [] : [{ name: 'agentCheck', address: agentCheck }]),
  ]
}

function inherited({ fd, address, given, file }: ListeningSocketState): ListeningSocket {
  if (file === undefined) return named(new OwnedFd(fd), address, given)
  return { fd: new OwnedFd(fd), address, given, file }
}

/** With the identity of the file that its address names now. */
function named(fd: OwnedFd, address: Address, given?: boolean): ListeningSocket {
  const file = address.kind === 'unix' && given !== true ? identityOf(address.path) : undefined
  return { fd, address, given, file }
}

/** Matches by name first, because two listeners may both have port 0. */
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

/** Idempotent. @param isLeft its file stays */
function release({ fd, address, file }: ListeningSocket, isLeft = false): void {
  if (fd.closed) return
  const own = !isLeft && address.kind === 'unix' && file !== undefined && identityOf(address.path) === file
  fd.close()
  // A different file of this name may be another broker's.
  if (own) removeSocket(address.path)
}
