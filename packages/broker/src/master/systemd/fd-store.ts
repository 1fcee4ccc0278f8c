import { setTimeout as sleep } from 'node:timers/promises'
import {
  createPipe,
  EPOLLIN,
  NativeError,
  type OwnedFd,
  poll,
  type Poller,
  POLLHUP,
  POLLIN,
  sendDatagram,
  socketpair,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { formatName } from './stored-names.ts'

/** Wait, in ms, before the next messages when the manager's queue is full, or when it has had `BURST` messages. */
const PAUSE_MS = 10

/** Maximum messages without a pause: the manager has other services. */
const BURST = 32

/** Timeout for the manager to answer the first question, in ms. It may be starting a hundred other services. */
const FIRST_ANSWER_TIMEOUT_MS = 60_000

/** Errors that pass: the manager's queue is full, too many descriptors are in flight, or this process may open no more. */
const PASSING = new Set(['EAGAIN', 'ETOOMANYREFS', 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'])

export interface FdStoreState {
  readonly usable: boolean
  readonly stored: readonly string[]
  /** To be removed from it. */
  readonly removed: readonly string[]
}

const PROBE = formatName({ kind: 'probe' })

/**
 * The service manager's store of descriptors (sd_pid_notify_with_fds(3)): they outlive this process, and the next one gets them with their names.
 *
 * The manager does not answer, and silently closes what it has no room for. So this asks once whether it keeps a descriptor at all: it sends one end
 * of a pair, then a barrier, and sees whether the other end is still connected. All else is a list of what is to be there, which is sent as
 * fast as the manager reads. Nothing here ever blocks; without a store, it does nothing. Borrows the descriptors.
 */
export class FdStore {
  readonly #socket: string | undefined
  /** Maximum descriptors, as far as the manager says. */
  readonly #limit: number
  readonly #poller: Poller
  readonly #logger: Logger
  #state: 'asking' | 'usable' | 'unusable'
  /** To be stored, in this order. */
  readonly #waiting = new Map<string, OwnedFd>()
  readonly #stored: Set<string>
  readonly #removed: Set<string>
  #pause: NodeJS.Timeout | undefined
  #sent = 0
  readonly #idle: (() => void)[] = []
  /** Ends the wait for an answer. */
  readonly #asking = new Set<() => void>()

  /** @param state of the program before this one, or what is known to be stored */
  constructor(
    { socket, storeLimit }: { readonly socket: string | undefined; readonly storeLimit: number | undefined },
    poller: Poller,
    logger: Logger,
    state?: FdStoreState,
  ) {
    this.#socket = socket
    this.#limit = storeLimit ?? Number.POSITIVE_INFINITY
    this.#poller = poller
    this.#logger = logger
    this.#state = state?.usable === true && socket !== undefined ? 'usable' : 'asking'
    this.#stored = new Set(state?.stored)
    this.#removed = new Set(state?.removed)
    if (socket === undefined) this.#state = 'unusable'
  }

  /** The manager is known to keep descriptors. */
  get usable(): boolean {
    return this.#state === 'usable'
  }

  /** How many more it takes, as far as the manager says. */
  get room(): number {
    return this.#limit - this.#stored.size - this.#waiting.size
  }

  get state(): FdStoreState {
    return { usable: this.usable, stored: [...this.#stored], removed: [...this.#removed] }
  }

  /** All that is stored, or is to be. */
  get names(): readonly string[] {
    return [...this.#stored, ...this.#waiting.keys()]
  }

  /** There is no store. */
  get absent(): boolean {
    return this.#state === 'unusable'
  }

  has(name: string): boolean {
    return this.#stored.has(name) || this.#waiting.has(name)
  }

  /** Asks the manager whether it keeps descriptors. Until it has answered, they wait here. */
  async open(): Promise<void> {
    if (this.#state !== 'asking') return this.#flush()
    const isKept = await this.isKept(FIRST_ANSWER_TIMEOUT_MS)
    // It may have failed meanwhile.
    if (this.#state !== 'asking') return
    this.#state = isKept ? 'usable' : 'unusable'
    if (!isKept) return this.#end()
    this.#logger.info('the service manager keeps sockets and waiting connections for the next start')
    this.#flush()
  }

  /** To be kept from now on. Borrowed until it is sent; one that is closed before is not stored. */
  put(name: string, fd: OwnedFd): void {
    if (this.#state === 'unusable') return
    this.#waiting.set(name, fd)
    this.#flush()
  }

  remove(name: string): void {
    if (this.#waiting.delete(name) || !this.#stored.delete(name)) return
    this.#removed.add(name)
    this.#flush()
  }

  /** Whether the manager keeps one descriptor more, now. @param limit for its answer, in ms */
  async isKept(limit: number): Promise<boolean> {
    if (this.#state === 'unusable') return false
    const end = performance.now() + limit
    const owned: OwnedFd[] = []
    try {
      const [ours, theirs] = socketpair('stream')
      owned.push(ours, theirs)
      await this.#send(`FDSTORE=1\nFDPOLL=0\nFDNAME=${PROBE}`, theirs, end)
      theirs.close()
      await this.#pass(end, owned)
      if ((poll(ours.fd, POLLIN) & POLLHUP) !== 0) return false
      this.#removed.add(PROBE)
      if (this.usable) this.#flush()
      return true
    } catch (error) {
      if (error instanceof NativeError && !PASSING.has(error.code)) this.#fail(error)
      else if (!(error instanceof NativeError) && !(error instanceof LateError)) throw error
      return false
    } finally {
      for (const fd of owned) fd.close()
    }
  }

  /** Resolves when the manager has all that it takes, and has removed the rest. @param limit in ms */
  async settled(limit: number): Promise<void> {
    if (this.#state !== 'usable') return
    const end = performance.now() + limit
    const owned: OwnedFd[] = []
    try {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, limit)
        this.#idle.push(() => {
          clearTimeout(timer)
          resolve()
        })
        this.#flush()
      })
      await this.#pass(end, owned)
    } catch (error) {
      if (error instanceof NativeError && !PASSING.has(error.code)) this.#fail(error)
      else if (!(error instanceof NativeError) && !(error instanceof LateError)) throw error
    } finally {
      for (const fd of owned) fd.close()
    }
  }

  close(): void {
    this.#state = 'unusable'
    this.#end()
  }

  /** Resolves when the manager has read everything so far. @throws {LateError} */
  async #pass(end: number, owned: OwnedFd[]): Promise<void> {
    const [readEnd, writeEnd] = createPipe({ nonblocking: true })
    owned.push(readEnd, writeEnd)
    await this.#send('BARRIER=1', writeEnd, end)
    writeEnd.close()
    await new Promise<void>((resolve, reject) => {
      const over = () => {
        clearTimeout(timer)
        watch.remove()
        this.#asking.delete(late)
      }
      const late = () => {
        over()
        reject(new LateError())
      }
      const timer = setTimeout(late, Math.max(0, end - performance.now()))
      this.#asking.add(late)
      // The manager has closed the other end.
      const watch = this.#poller.add(readEnd.fd, EPOLLIN, () => {
        over()
        resolve()
      })
    })
  }

  /** As soon as the manager has room for it. @throws {LateError} @throws {NativeError} */
  async #send(text: string, { fd }: OwnedFd, end: number): Promise<void> {
    for (;;) {
      try {
        return sendDatagram(this.#socket ?? '', Buffer.from(text), [fd])
      } catch (error) {
        if (!(error instanceof NativeError) || !PASSING.has(error.code)) throw error
      }
      if (performance.now() > end || this.#state === 'unusable') throw new LateError()
      await sleep(PAUSE_MS)
    }
  }

  /** Sends what has changed, removals first: they make room, and a client sees the end of its connection only after its removal. */
  #flush(): void {
    if (this.#state !== 'usable' || this.#pause !== undefined || this.#socket === undefined) return
    try {
      for (; this.#sent < BURST; this.#sent += 1) {
        const [removed] = this.#removed
        const [waiting] = this.#stored.size < this.#limit ? this.#waiting : []
        if (removed !== undefined) {
          sendDatagram(this.#socket, Buffer.from(`FDSTOREREMOVE=1\nFDNAME=${removed}`))
          this.#removed.delete(removed)
        } else if (waiting === undefined) break
        else {
          const [name, fd] = waiting
          if (!fd.closed) {
            sendDatagram(this.#socket, Buffer.from(`FDSTORE=1\nFDPOLL=0\nFDNAME=${name}`), [fd.fd])
            this.#stored.add(name)
          }
          this.#waiting.delete(name)
        }
      }
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (!PASSING.has(error.code)) return this.#fail(error)
      this.#sent = BURST
    }
    if (this.#sent < BURST) for (const resolve of this.#idle.splice(0)) resolve()
    if (this.#sent === 0) return
    this.#pause = setTimeout(() => {
      this.#pause = undefined
      this.#sent = 0
      this.#flush()
    }, PAUSE_MS).unref()
  }

  /** There is no store any more. */
  #fail(error: NativeError): void {
    // If it never kept anything, `Notifier` says that it cannot be reached.
    if (this.usable)
      this.#logger.warn({ err: error }, 'the service manager no longer keeps sockets and waiting connections')
    this.#state = 'unusable'
    this.#end()
  }

  #end(): void {
    clearTimeout(this.#pause)
    this.#waiting.clear()
    this.#stored.clear()
    this.#removed.clear()
    for (const resolve of this.#idle.splice(0)) resolve()
    for (const late of this.#asking) late()
  }
}

/** The manager has not answered in time. */
class LateError extends Error {
  static {
    this.prototype.name = 'LateError'
  }
}
