import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { OwnedFd } from '@baton/native-sendmsg'
import { type Address, type Config, formatAddress, isLoopback } from '../config/index.ts'
import {
  modeOfSockets,
  openAdmin,
  openInRuntimeDir,
  openListener,
  prepareRuntimeDir,
  removeSocket,
} from '../listening/sockets.ts'
import type { GivenSockets, WantedSocket } from './systemd/index.ts'

interface Held {
  readonly fd: OwnedFd
  /** As configured: where it says port 0, the kernel has chosen one, and a reload keeps that. */
  readonly address: Address
  /** The service manager has bound it, and takes its name away. */
  readonly given?: boolean | undefined
}

/** A `Held` by its number. */
interface HeldState {
  readonly fd: number
  readonly address: Address
  readonly given?: boolean | undefined
}

/** What crosses the master's exec. */
export interface HeldSocketsState {
  readonly listeners: readonly (HeldState & { readonly name: string })[]
  readonly admin: HeldState
  readonly control: number
  readonly operator: number
}

/** What a reload does to the sockets: either is called, once. */
export interface SocketsChange {
  readonly sockets: HeldSockets
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
export class HeldSockets {
  readonly listeners: ReadonlyMap<string, Held>
  readonly admin: Held
  /** On which backends register. */
  readonly control: OwnedFd
  /** On which the operator's commands come. */
  readonly operator: OwnedFd

  /**
   * Opens all of them, or none. To be called with the lock of `runtimeDir`. Takes out of `given` what need not be opened.
   *
   * @throws {BrokerError} BATON_ERR_LISTEN, BATON_ERR_RUNTIME_DIR
   * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
   */
  static open(config: Config, given?: GivenSockets): HeldSockets {
    const opened: OwnedFd[] = []
    const keep = (fd: OwnedFd) => {
      opened.push(fd)
      return fd
    }
    try {
      const found = given?.assign(wantedBy(config)) ?? []
      for (const fd of found) if (fd !== undefined) keep(fd)
      const use = (index: number, address: Address, open: () => OwnedFd): Held => {
        const fd = found[index]
        return fd === undefined ? { fd: keep(open()), address } : { fd, address, given: true }
      }
      prepareRuntimeDir(config)
      const mode = modeOfSockets(config)
      // Nobody serves them: the lock is ours. A worker whose master was killed may still have one open.
      removeSocket(controlPath(config))
      removeSocket(operatorPath(config))
      const control = keep(openInRuntimeDir(controlPath(config), mode))
      const operator = keep(openInRuntimeDir(operatorPath(config), mode))
      const listeners = new Map<string, Held>()
      for (const [index, listener] of config.listeners.entries()) {
        const held = use(index, listener.listen, () => openListener(listener))
        listeners.set(listener.name, held)
      }
      const admin = use(config.listeners.length, config.admin.listen, () => openAdmin(config))
      return new HeldSockets(listeners, admin, control, operator)
    } catch (error) {
      for (const fd of opened) fd.close()
      removeSocket(controlPath(config))
      removeSocket(operatorPath(config))
      throw error
    }
  }

  static restore(state: HeldSocketsState): HeldSockets {
    return new HeldSockets(
      new Map(state.listeners.map((listener) => [listener.name, inherited(listener)])),
      inherited(state.admin),
      new OwnedFd(state.control),
      new OwnedFd(state.operator),
    )
  }

  private constructor(
    listeners: ReadonlyMap<string, Held>,
    admin: Held,
    control: OwnedFd,
    operator: OwnedFd,
  ) {
    this.listeners = listeners
    this.admin = admin
    this.control = control
    this.operator = operator
  }

  get state(): HeldSocketsState {
    return {
      listeners: [...this.listeners].map(([name, held]) => ({ ...held, name, fd: held.fd.fd })),
      admin: { ...this.admin, fd: this.admin.fd.fd },
      control: this.control.fd,
      operator: this.operator.fd,
    }
  }

  /**
   * What another configuration needs: a socket of the same address goes on whatever its listener is called now, the others are
   * opened.
   *
   * @throws as `open`, and then nothing has changed
   */
  change(config: Config): SocketsChange {
    const opened: Held[] = []
    const rollBack = () => {
      for (const held of opened) release(held)
    }
    try {
      const unused = new Map(this.listeners)
      const listeners = new Map<string, Held>()
      const open = (fd: OwnedFd, address: Address) => {
        const held = { fd, address }
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
        sockets: new HeldSockets(listeners, admin, this.control, this.operator),
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
  add(name: string, fd: OwnedFd, address: Address): HeldSockets {
    const listeners = new Map([...this.listeners, [name, { fd, address }]])
    return new HeldSockets(listeners, this.admin, this.control, this.operator)
  }

  /** No more clients: a worker has its own copies, and takes what waits in their queues. */
  closeListeners(): void {
    for (const held of this.listeners.values()) release(held)
  }

  /** Everything, and the names in `runtimeDir`. */
  close(config: Config): void {
    this.closeListeners()
    release(this.admin)
    this.control.close()
    this.operator.close()
    removeSocket(controlPath(config))
    removeSocket(operatorPath(config))
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

function inherited({ fd, address, given }: HeldState): Held {
  return { fd: new OwnedFd(fd), address, given }
}

/** By its name first: two listeners may both say port 0. */
function findSame(
  among: ReadonlyMap<string, Held>,
  name: string,
  listen: Address,
): [string, Held] | undefined {
  const text = formatAddress(listen)
  const own = among.get(name)
  if (own !== undefined && formatAddress(own.address) === text) return [name, own]
  if (listen.kind === 'tcp' && listen.port === 0) return undefined
  return [...among].find(([, { address }]) => formatAddress(address) === text)
}

/** A second call does nothing. */
function release({ fd, address, given }: Held): void {
  if (fd.closed) return
  fd.close()
  if (given !== true && address.kind === 'unix') removeSocket(address.path)
}
