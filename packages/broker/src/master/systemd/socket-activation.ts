import { fstatSync } from 'node:fs'
import { isListening, localAddress, OwnedFd, setCloseOnExec, setNonblocking } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { type Address, formatAddress } from '../../config/address.ts'
import { addressWord, formatName, type ListeningName, parseName } from './stored-names.ts'
import type { StoredFd } from './stored-waiting.ts'

/** SD_LISTEN_FDS_START. */
const FIRST = 3

const VARIABLES = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const

/** A socket that the configuration requires. */
export interface WantedSocket {
  readonly name: string
  readonly address: Address
  /** Whether a socket of this name may be used that is bound to an address other than `address`. Default: yes. */
  readonly accepts?: (bound: Address) => boolean
}

interface PassedSocket {
  readonly name: string
  readonly fd: OwnedFd
  readonly address: Address
  /** An earlier start has opened it, and the manager has kept it. */
  readonly stored?: ListeningName
}

export interface AssignedSocket {
  readonly fd: OwnedFd
  /** The manager has bound it. False: this broker has, in an earlier start. */
  readonly given: boolean
}

/**
 * Descriptors that the service manager passes (sd_listen_fds(3)): listening sockets that it has bound, and what an earlier start has left in its
 * store. Owner of those not assigned or taken yet.
 */
export class PassedSockets {
  readonly #logger: Logger
  #sockets: PassedSocket[]
  #stored: readonly StoredFd[]
  /** Names of all that the manager's store has of this broker. */
  readonly storedNames: readonly string[]

  /** Call once, before the descriptor numbers can be reused. Removes the variables from `environment`. */
  static take(environment: NodeJS.ProcessEnv, logger: Logger): PassedSockets {
    const { LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names = '' } = environment
    for (const variable of VARIABLES) delete environment[variable]
    // A shell in between passes on variables that are meant for it.
    if (count === undefined || Number(pid) !== process.pid) return new PassedSockets([], [], logger)
    const words = names.split(':')
    const sockets: (PassedSocket | undefined)[] = []
    const stored: StoredFd[] = []
    for (let index = 0; index < Number(count); index += 1) {
      const word = words[index] || 'unknown'
      const name = parseName(word)
      if (name === undefined) sockets.push(inspect(FIRST + index, word, logger))
      else if (name.kind === 'listening') {
        const socket = inspect(FIRST + index, name.name, logger)
        if (socket !== undefined) sockets.push({ ...socket, stored: name })
      } else {
        const fd = take(FIRST + index, word, logger)
        if (fd !== undefined) stored.push({ name, fd })
      }
    }
    return new PassedSockets(
      sockets.filter((socket) => socket !== undefined),
      stored,
      logger,
    )
  }

  private constructor(sockets: PassedSocket[], stored: readonly StoredFd[], logger: Logger) {
    this.#sockets = sockets
    this.#stored = stored
    this.storedNames = [
      ...stored.map(({ name }) => name),
      ...sockets.flatMap(({ stored: name }) => name ?? []),
    ].map(formatName)
    this.#logger = logger
  }

  /** Everything that the store had, other than listening sockets. The caller owns it. */
  takeStored(): readonly StoredFd[] {
    const stored = this.#stored
    this.#stored = []
    return stored
  }

  /**
   * Closes listening sockets of an earlier start that are not among `wanted`.
   *
   * @returns their names in the store
   */
  closeUnwanted(wanted: readonly WantedSocket[]): readonly string[] {
    const names: string[] = []
    for (const socket of this.#sockets) {
      const { stored, fd, address, name } = socket
      if (stored === undefined || wanted.some((each) => isOf(socket, each))) continue
      this.#logger.info(
        { name, address: formatAddress(address) },
        'closed a socket of the last start that is no longer configured',
      )
      fd.close()
      names.push(formatName(stored))
    }
    this.#sockets = this.#sockets.filter(({ fd }) => !fd.closed)
    return names
  }

  /**
   * For each of `wanted`, the socket bound to its address, else the one with its name, else none. One of an earlier start must have been opened for the
   * address. The caller owns them.
   */
  assign(wanted: readonly WantedSocket[]): readonly (AssignedSocket | undefined)[] {
    const byAddress = wanted.map((each) => this.#remove((socket) => isOf(socket, each)))
    return wanted.map(
      ({ name, accepts }, index) =>
        byAddress[index] ??
        this.#remove(
          (each) =>
            each.stored === undefined &&
            each.name === name &&
            (accepts === undefined || accepts(each.address)),
        ),
    )
  }

  /** Logs and closes unassigned sockets. Their clients wait as long as the service manager keeps them open. */
  close(): void {
    for (const { name, fd, address, stored } of this.#sockets) {
      const socket = { name, address: formatAddress(address) }
      if (stored === undefined)
        this.#logger.warn(socket, 'the service manager passed a socket that matches no listener; closed')
      fd.close()
    }
    this.#sockets = []
    for (const { fd } of this.takeStored()) fd.close()
  }

  #remove(fits: (socket: PassedSocket) => boolean): AssignedSocket | undefined {
    const found = this.#sockets.find(fits)
    this.#sockets = this.#sockets.filter((each) => each !== found)
    return found && { fd: found.fd, given: found.stored === undefined }
  }
}

function isOf({ address: bound, stored }: PassedSocket, { name, address }: WantedSocket): boolean {
  if (stored === undefined) return formatAddress(bound) === formatAddress(address)
  if (stored.address !== addressWord(address)) return false
  // Two listeners may both let the kernel choose a port.
  return address.kind === 'unix' || address.port !== 0 || stored.name === name
}

function take(number: number, name: string, logger: Logger): OwnedFd | undefined {
  try {
    setCloseOnExec(number, true)
    return new OwnedFd(number)
  } catch (error) {
    cannotUse(number, name, error, logger)
    return undefined
  }
}

function cannotUse(fd: number, name: string, error: unknown, logger: Logger): void {
  logger.warn({ err: error, fd, name }, 'the service manager passed a descriptor that cannot be used')
}

function inspect(number: number, name: string, logger: Logger): PassedSocket | undefined {
  try {
    setCloseOnExec(number, true)
    // If the count is wrong, this may be one of Node's own descriptors, which are not sockets: leave it open.
    if (!fstatSync(number).isSocket()) {
      logger.warn({ fd: number, name }, 'the service manager passed a descriptor that is not a socket')
      return undefined
    }
    const fd = new OwnedFd(number)
    if (!isListening(number)) {
      logger.warn(
        { fd: number, name },
        'the service manager passed a socket that is not a listening stream; closed',
      )
      fd.close()
      return undefined
    }
    setNonblocking(number, true)
    const { family, address, port } = localAddress(number)
    const bound: Address =
      family === 'unix' ? { kind: 'unix', path: address } : { kind: 'tcp', host: address, port }
    return { name, fd, address: bound }
  } catch (error) {
    cannotUse(number, name, error, logger)
    return undefined
  }
}
