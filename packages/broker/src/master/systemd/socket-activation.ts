import { fstatSync } from 'node:fs'
import { isListening, localAddress, OwnedFd, setCloseOnExec, setNonblocking } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { type Address, formatAddress } from '../../config/address.ts'

/** SD_LISTEN_FDS_START. */
const FIRST = 3

const VARIABLES = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const

/** A socket that the configuration asks for. */
export interface WantedSocket {
  readonly name: string
  readonly address: Address
  /** Whether it may be one that is bound there, when `address` says something else. */
  readonly accepts?: (bound: Address) => boolean
}

interface PassedSocket {
  readonly name: string
  readonly fd: OwnedFd
  readonly address: Address
}

/**
 * Listening sockets that were open before this process: the service manager has bound them, keeps them, and hands over copies
 * (sd_listen_fds(3)). Owner of those that nobody has taken yet.
 */
export class PassedSockets {
  readonly #logger: Logger
  #sockets: PassedSocket[]

  /** Once, and before any descriptor of that number is anything else. Takes the variables out of `environment`. */
  static take(environment: NodeJS.ProcessEnv, logger: Logger): PassedSockets {
    const { LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names = '' } = environment
    for (const variable of VARIABLES) delete environment[variable]
    // A shell in between passes the variables on, but they are not meant for us.
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
   * For each of `wanted` the one that is bound to its address, else the one of its name, else none. The caller owns them.
   */
  assign(wanted: readonly WantedSocket[]): readonly (OwnedFd | undefined)[] {
    const byAddress = wanted.map(({ address }) => this.#remove((each) => isSame(each.address, address)))
    return wanted.map(
      ({ name, accepts }, index) =>
        byAddress[index] ??
        this.#remove((each) => each.name === name && (accepts === undefined || accepts(each.address))),
    )
  }

  /** Closes, and names, what nobody has taken. Its clients wait for as long as the service manager has it open. */
  close(): void {
    for (const { name, fd, address } of this.#sockets) {
      const socket = { name, address: formatAddress(address) }
      this.#logger.warn(socket, 'the service manager gave a socket that fits no listener; closed')
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
    // If the count is wrong it may be a descriptor of Node's own, which are no sockets: those stay as they are.
    if (!fstatSync(number).isSocket()) {
      logger.warn({ fd: number, name }, 'the service manager gave a descriptor that is no socket')
      return undefined
    }
    const fd = new OwnedFd(number)
    if (!isListening(number)) {
      logger.warn(
        { fd: number, name },
        'the service manager gave a socket that is not a listening stream; closed',
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
    logger.warn({ err: error, fd: number, name }, 'the service manager gave a descriptor that cannot be used')
    return undefined
  }
}

function isSame(bound: Address, configured: Address): boolean {
  return formatAddress(bound) === formatAddress(configured)
}
