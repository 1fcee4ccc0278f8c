import { fstatSync } from 'node:fs'
import { isListening, localAddress, OwnedFd, setCloseOnExec, setNonblocking } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { type Address, formatAddress } from '../../config/address.ts'

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
}

/**
 * Listening sockets that were opened before this process: the service manager binds and keeps them, and passes copies
 * (sd_listen_fds(3)). Owner of those not assigned yet.
 */
export class PassedSockets {
  readonly #logger: Logger
  #sockets: PassedSocket[]

  /** Call once, before the descriptor numbers can be reused. Removes the variables from `environment`. */
  static take(environment: NodeJS.ProcessEnv, logger: Logger): PassedSockets {
    const { LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names = '' } = environment
    for (const variable of VARIABLES) delete environment[variable]
    // A shell in between passes on variables that are meant for it.
    if (count === undefined || Number(pid) !== process.pid) return new PassedSockets([], logger)
    const words = names.split(':')
    const sockets = Array.from({ length: Number(count) }, (_, index) =>
      inspect(FIRST + index, words[index] || 'unknown', logger),
    )
    return new PassedSockets(
      sockets.filter((socket) => socket !== undefined),
      logger,
    )
  }

  private constructor(sockets: PassedSocket[], logger: Logger) {
    this.#sockets = sockets
    this.#logger = logger
  }

  /**
   * For each of `wanted`, the socket bound to its address, else the one with its name, else none. The caller owns them.
   */
  assign(wanted: readonly WantedSocket[]): readonly (OwnedFd | undefined)[] {
    const byAddress = wanted.map(({ address }) => this.#remove((each) => isSame(each.address, address)))
    return wanted.map(
      ({ name, accepts }, index) =>
        byAddress[index] ??
        this.#remove((each) => each.name === name && (accepts === undefined || accepts(each.address))),
    )
  }

  /** Logs and closes unassigned sockets. Their clients wait as long as the service manager keeps them open. */
  close(): void {
    for (const { name, fd, address } of this.#sockets) {
      const socket = { name, address: formatAddress(address) }
      this.#logger.warn(socket, 'the service manager passed a socket that matches no listener; closed')
      fd.close()
    }
    this.#sockets = []
  }

  #remove(fits: (socket: PassedSocket) => boolean): OwnedFd | undefined {
    const found = this.#sockets.find(fits)
    this.#sockets = this.#sockets.filter((each) => each !== found)
    return found?.fd
  }
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
    logger.warn(
      { err: error, fd: number, name },
      'the service manager passed a descriptor that cannot be used',
    )
    return undefined
  }
}

function isSame(bound: Address, configured: Address): boolean {
  return formatAddress(bound) === formatAddress(configured)
}
