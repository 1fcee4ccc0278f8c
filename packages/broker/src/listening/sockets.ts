import { once } from 'node:events'
import { chmodSync, lstatSync, unlinkSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { connectUnix, listenTcp, listenUnix, NativeError, type OwnedFd } from '@baton/native-sendmsg'
import { adminListenError } from './admin-errors.ts'
import type { Config, ListenerConfig } from '../config/config.ts'
import { errnoOf } from '../config/error.ts'
import { type Address, formatAddress } from '../config/address.ts'
import { BrokerError } from '../errors.ts'
import { makeFolder, unusable } from './runtime-folder.ts'

/** Accept queue of each listener; the kernel caps it at net.core.somaxconn. */
const BACKLOG = 4096
const CONTROL_BACKLOG = 512

const PRIVATE_FOLDER = 0o700
const PRIVATE_SOCKET = 0o600
/** If other users are allowed, anyone may connect; SO_PEERCRED then identifies the user. */
const SHARED_FOLDER = 0o711
const SHARED_SOCKET = 0o666

/** The control socket as created, for comparison with the file on disk when a backend registers. */
export interface ControlSocket {
  readonly fd: OwnedFd
  readonly path: string
  /** Permission bits. */
  readonly mode: number
}

/** The listening sockets that a worker serves. The process that opens them can keep them across workers. */
export interface Sockets {
  readonly listeners: ReadonlyMap<string, OwnedFd>
  readonly control: ControlSocket
  /** For agent checks, if they are configured. */
  readonly agentCheck?: OwnedFd | undefined
}

/**
 * Opens all sockets, or none.
 *
 * @throws {BrokerError} BATON_ERR_LISTEN (names the listener and address), BATON_ERR_RUNTIME_DIR,
 * BATON_ERR_ALREADY_RUNNING
 */
export function openSockets(config: Config): Sockets {
  const listeners = new Map<string, OwnedFd>()
  try {
    const control = openControl(config)
    try {
      for (const listener of config.listeners) listeners.set(listener.name, openListener(listener))
      const { agentCheck } = config
      return { listeners, control, ...(agentCheck !== null && { agentCheck: openAgentCheck(agentCheck) }) }
    } catch (error) {
      unlinkSync(control.path)
      control.fd.close()
      throw error
    }
  } catch (error) {
    for (const fd of listeners.values()) fd.close()
    throw error
  }
}

/** @throws {BrokerError} BATON_ERR_LISTEN, which names the listener and address */
export function openListener({ name, listen }: Pick<ListenerConfig, 'name' | 'listen'>): OwnedFd {
  try {
    if (listen.kind === 'unix') return openUnix(listen.path, SHARED_SOCKET, BACKLOG)
    // Accepted sockets inherit TCP_NODELAY, which saves a system call for each connection.
    return listenTcp({ host: listen.host, port: listen.port, backlog: BACKLOG, noDelay: true })
  } catch (error) {
    throw listenError(`listener "${name}"`, listen, error)
  }
}

/** For the agent checks of load balancers. @throws {BrokerError} BATON_ERR_LISTEN, which names the key and the address */
export function openAgentCheck(listen: Extract<Address, { kind: 'tcp' }>): OwnedFd {
  try {
    return listenTcp({ host: listen.host, port: listen.port })
  } catch (error) {
    throw listenError('agentCheck', listen, error)
  }
}

function listenError(what: string, listen: Address, error: unknown): BrokerError {
  const message = `${what} on ${formatAddress(listen)}: ${reasonOf(error)}`
  return new BrokerError('BATON_ERR_LISTEN', message, { cause: error })
}

function openControl(config: Config): ControlSocket {
  prepareRuntimeDir(config)
  const path = join(config.runtimeDir, 'control.sock')
  const mode = modeOfSockets(config)
  return { fd: openInRuntimeDir(path, mode), path, mode }
}

/** Permission bits of the sockets in `runtimeDir`. */
export function modeOfSockets(config: Config): number {
  return isShared(config) ? SHARED_SOCKET : PRIVATE_SOCKET
}

/** Permission bits of `runtimeDir`. */
export function modeOfFolder(config: Config): number {
  return isShared(config) ? SHARED_FOLDER : PRIVATE_FOLDER
}

/** @throws {BrokerError} BATON_ERR_RUNTIME_DIR */
export function prepareRuntimeDir(config: Config): void {
  prepareFolder(config.runtimeDir, modeOfFolder(config))
}

/** @throws {BrokerError} BATON_ERR_RUNTIME_DIR, BATON_ERR_ALREADY_RUNNING */
export function openInRuntimeDir(path: string, mode: number): OwnedFd {
  try {
    return openUnix(path, mode, CONTROL_BACKLOG)
  } catch (error) {
    if (error instanceof ServedError) throw new BrokerError('BATON_ERR_ALREADY_RUNNING', path)
    throw new BrokerError('BATON_ERR_RUNTIME_DIR', `${path}: ${reasonOf(error)}`, { cause: error })
  }
}

/** @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN, which names the key and the address */
export function openAdmin({ admin: { listen } }: Config): OwnedFd {
  try {
    // Connecting requires write permission on the file, so access does not depend on the token alone.
    if (listen.kind === 'unix') return openUnix(listen.path, PRIVATE_SOCKET, CONTROL_BACKLOG)
    return listenTcp({ host: listen.host, port: listen.port })
  } catch (error) {
    throw adminListenError(listen, error)
  }
}

/** Whether processes of other users may register. */
export function isShared({ security }: Config): boolean {
  return security.allowGids.length > 0 || security.allowUids.some((uid) => uid !== process.getuid?.())
}

/** The folder may exist from a previous run. It is refused if another user owns it or can write to it. */
function prepareFolder(path: string, mode: number): void {
  try {
    const inspect = () => {
      const problem = unusable(path)
      if (problem !== undefined) throw new BrokerError('BATON_ERR_RUNTIME_DIR', problem)
    }
    inspect()
    makeFolder(path, PRIVATE_FOLDER)
    // Another user may have made it in between.
    inspect()
    chmodSync(path, mode)
  } catch (error) {
    if (error instanceof BrokerError) throw error
    const { message } = error as Error
    const why = `${path}: ${message}; choose another runtimeDir`
    throw new BrokerError('BATON_ERR_RUNTIME_DIR', why, { cause: error })
  }
}

/** Another process listens on the path. */
class ServedError extends Error {
  readonly code = 'EADDRINUSE'
}

/**
 * Binds a Unix socket, replacing one that a dead process left behind.
 *
 * @throws {ServedError} another process listens on it
 * @throws {NativeError} bind(2) failed
 */
function openUnix(path: string, mode: number, backlog: number): OwnedFd {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === true) {
    if (isServed(path)) throw new ServedError(path)
    unlinkSync(path)
  }
  return listenUnix({ path, mode, backlog, descriptors: false })
}

/** Whether a process listens on the Unix socket `path`. */
export function isServed(path: string): boolean {
  try {
    connectUnix(path, 'stream', { descriptors: false }).close()
    return true
  } catch (error) {
    // EAGAIN: a process listens, but its accept queue is full.
    return error instanceof NativeError && error.code === 'EAGAIN'
  }
}

const REASONS = new Map([
  ['EADDRINUSE', 'the address is in use by another process'],
  ['EADDRNOTAVAIL', 'no interface of this machine has the address'],
  ['EACCES', 'no permission to bind it (ports below 1024 need CAP_NET_BIND_SERVICE)'],
])

function reasonOf(error: unknown): string {
  const { code, message } = error as { code?: string; message: string }
  const known = code === undefined ? undefined : REASONS.get(code)
  return known === undefined ? message : `${known} (${code})`
}

/** Unlinks a socket file. Does nothing if the path does not exist or is not a socket. */
export function removeSocket(path: string): void {
  try {
    if (lstatSync(path).isSocket()) unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}

/**
 * Removes a socket file that a killed process left behind. A socket that a process listens on, and a file that is not
 * a socket, are kept: binding then fails with EADDRINUSE, as it should.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const probe = connect(path)
  try {
    await once(probe, 'connect')
  } catch (error) {
    // Connecting to a plain file gives ECONNREFUSED too; remove only sockets.
    if (errnoOf(error) === 'ECONNREFUSED' && lstatSync(path).isSocket()) unlinkSync(path)
  } finally {
    probe.destroy()
  }
}
