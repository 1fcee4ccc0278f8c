import { lstatSync } from 'node:fs'
import {
  ControlConnection,
  type ControlEnd,
  type Frame,
  FrameOrder,
  type HelloFrame,
  openControlStream,
  PROTOCOL_VERSION,
} from '@baton/backend-sdk/protocol'
import {
  acceptOne,
  EPOLLIN,
  NativeError,
  OwnedFd,
  type PeerCredentials,
  peerCredentials,
  type Poller,
  type Watch,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { isValid, ulid } from 'ulid'
import type { KnownBackends } from '../channel/messages.ts'
import type { Config } from '../config/index.ts'
import { Lane } from '../handoff/lane.ts'
import { HealthChecks } from '../health/health-checks.ts'
import { apartFromProbes } from '../health/probe-routing.ts'
import { removeRelaySocket } from '../relay/relay-sockets.ts'
import type { Service } from '../service/service.ts'
import { admit, isAllowed } from './admission.ts'
import { type BackendIdentity, BackendLink } from './backend-link.ts'
import { LogOnce } from './log-once.ts'
import { Slots } from './slots.ts'

/** A process that connects has this long to say HELLO, in milliseconds. */
const HELLO_TIMEOUT = 5000
/** So many may be connected without having said HELLO; more wait in the kernel. */
const MOST_STRANGERS = 128
/** The same for users who may not register: they hear why if they ask at once, and take nobody's place. */
const MOST_UNWELCOME = 8
const UNWELCOME_TIMEOUT = 500
/** What a peer calls a service may be long; a log line and an answer need not. */
const LONGEST_NAME = 64
/** Out of descriptors: pause before the next accept, in milliseconds. */
const PRESSURE_PAUSE = 100
/** How often each backend's event loop is probed, in milliseconds. */
export const HEARTBEAT_INTERVAL = 1000

/** The control socket as it was made, to be compared with what it is when somebody registers. */
export interface ControlSocket {
  readonly fd: OwnedFd
  readonly path: string
  /** Permission bits. */
  readonly mode: number
}

export interface RegistryOptions {
  readonly config: Config
  readonly socket: ControlSocket
  readonly services: ReadonlyMap<string, Service>
  /** ULID of this process. */
  readonly brokerId: string
  /** Backends of a predecessor. */
  readonly known?: KnownBackends | undefined
  /** Somebody has registered or gone, or health checks think otherwise of one. */
  readonly onChange?: (() => void) | undefined
  readonly logger: Logger
}

/**
 * Who the backends are. Accepts on the control socket, decides who may register, introduces each backend to its lane and
 * joins the link to its service. Owner of the control socket, of slots, and of connections that have not said HELLO.
 */
export class Registry {
  readonly #config: Config
  #socket: ControlSocket
  /** Replaced ones, until their accept queues are empty. */
  readonly #former = new Map<OwnedFd, Watch | undefined>()
  readonly #services: ReadonlyMap<string, Service>
  readonly #brokerId: string
  readonly #logger: Logger
  readonly #slots = new Slots()
  readonly #refusals = new LogOnce()
  readonly #strangers = new Set<ControlConnection>()
  /** By id; of a backend that has registered anew, its newest. */
  readonly #links = new Map<string, BackendLink>()
  /** Backends of a predecessor. */
  readonly #known: KnownBackends
  readonly #onChange: (() => void) | undefined
  #releasing: string | undefined
  #unwelcome = 0
  #pressure: string | undefined
  #poller: Poller | undefined
  #watch: Watch | undefined
  #resume: NodeJS.Timeout | undefined

  constructor({ config, socket, services, brokerId, known = {}, onChange, logger }: RegistryOptions) {
    this.#config = config
    this.#socket = socket
    this.#services = services
    this.#brokerId = brokerId
    this.#known = known
    this.#onChange = onChange
    this.#logger = logger
  }

  start(poller: Poller): void {
    this.#releasing = undefined
    this.#poller = poller
    const watch = (fd: OwnedFd) => poller.add(fd.fd, EPOLLIN, () => this.#accept())
    for (const [former, watched] of this.#former) this.#former.set(former, watched ?? watch(former))
    this.#watch ??= watch(this.#socket.fd)
  }

  /** The socket's file was created again. What waits in the queue of the former socket is accepted as well. Owns `fd`. */
  replaceSocket(fd: OwnedFd): void {
    const { fd: former } = this.#socket
    if (former.closed) return fd.close()
    this.#former.set(former, this.#watch)
    this.#socket = { ...this.#socket, fd }
    // Before `start`, which watches both.
    if (this.#watch === undefined) return
    this.#watch = this.#poller?.add(fd.fd, EPOLLIN, () => this.#accept())
    this.#accept()
  }

  /** Accepts nobody until `start`. Who has connected before may still register. */
  pause(): void {
    clearTimeout(this.#resume)
    for (const watch of this.#watches) watch.remove()
    this.#closeFormer()
    this.#watch = undefined
  }

  /** Asks every backend, also those that register yet, to do so with whoever accepts on the control socket now. */
  release(reason: string): void {
    this.#releasing = reason
    for (const service of this.#services.values()) for (const link of service.links) link.release(reason)
  }

  /** Nobody can register any more. The links belong to their services. */
  close(): void {
    this.pause()
    this.#socket.fd.close()
    for (const stranger of this.#strangers) stranger.cutOff()
  }

  get #watches(): Watch[] {
    return [...this.#former.values(), this.#watch].filter((watch) => watch !== undefined)
  }

  /** A backend that waits there sees an end, and dials again. */
  #closeFormer(): void {
    for (const former of this.#former.keys()) former.close()
    this.#former.clear()
  }

  #accept(): void {
    for (const [former, watch] of this.#former) {
      if (!this.#acceptFrom(former)) return
      // Its file is gone: no more can come.
      watch?.remove()
      this.#former.delete(former)
      former.close()
    }
    this.#acceptFrom(this.#socket.fd)
  }

  /** @returns whether its queue is empty */
  #acceptFrom(socket: OwnedFd): boolean {
    try {
      while (this.#strangers.size < MOST_STRANGERS) {
        const accepted = acceptOne(socket.fd)
        if (accepted === undefined) return true
        this.#meet(new OwnedFd(accepted.fd))
        this.#pressure = undefined
      }
      this.#pause()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      if (this.#pressure !== error.code)
        this.#logger.error({ code: error.code }, 'cannot accept on the control socket')
      this.#pressure = error.code
      this.#pause()
    }
    return false
  }

  /** The socket stays readable while nobody is accepted from it; looking again later is not a spin. */
  #pause(): void {
    this.#watchFor(0)
    this.#resume = setTimeout(() => this.#watchFor(EPOLLIN), PRESSURE_PAUSE)
  }

  #watchFor(events: number): void {
    for (const watch of this.#watches) watch.modify(events)
  }

  /** From accept to HELLO. Afterwards the connection's frames go to its link. Owns `fd`, also when it throws. */
  #meet(fd: OwnedFd): void {
    let credentials: PeerCredentials
    try {
      credentials = peerCredentials(fd.fd)
    } catch (error) {
      fd.close()
      throw error
    }
    const welcome = isAllowed(credentials, this.#config)
    if (!welcome && this.#unwelcome >= MOST_UNWELCOME) return fd.close()

    let link: BackendLink | undefined
    let met = false
    let known = false
    const control = new ControlConnection(openControlStream(fd), new FrameOrder('broker'), {
      frames: (frames) => {
        if (met) return link?.read(frames)
        met = true
        const [hello, ...rest] = frames as [HelloFrame, ...Frame[]]
        forget()
        link = this.#register(control, hello, credentials)
        if (rest.length > 0) link?.read(rest)
      },
      ended: (end: ControlEnd) => {
        forget()
        if (link) link.controlEnded(end)
        else control.release()
      },
    })
    const timeout = setTimeout(
      () => {
        const { pid, uid } = credentials
        if (this.#refusals.isNew(`${uid}/silent`)) {
          this.#logger.warn({ peerPid: pid, uid }, 'a process connected and did not say HELLO')
        }
        control.cutOff()
      },
      welcome ? HELLO_TIMEOUT : UNWELCOME_TIMEOUT,
    )
    const forget = () => {
      if (known) return
      known = true
      clearTimeout(timeout)
      if (welcome) this.#strangers.delete(control)
      else this.#unwelcome -= 1
    }
    if (welcome) this.#strangers.add(control)
    else this.#unwelcome += 1
  }

  #register(
    control: ControlConnection,
    hello: HelloFrame,
    credentials: PeerCredentials,
  ): BackendLink | undefined {
    const applicant = { hello, credentials, socketProblem: this.#socketProblem() }
    const refusal = admit(applicant, this.#config, this.#services)
    const service = this.#services.get(hello.service)
    if (refusal !== undefined || service === undefined) {
      const { code, message, retry } = refusal ?? {
        code: 'UnknownService',
        message: hello.service,
        retry: false,
      }
      const { pid, uid, gid } = credentials
      if (this.#refusals.isNew(code === 'UidNotAllowed' ? `${uid}/${code}` : `${pid}/${uid}/${code}`)) {
        this.#logger.warn(
          { peerPid: pid, uid, gid, service: hello.service.slice(0, LONGEST_NAME), code, reason: message },
          'registration refused',
        )
      }
      control.write({ type: 'refused', code, message, retry })
      control.finish()
      return undefined
    }
    return this.#welcome(control, hello, credentials, service)
  }

  #welcome(control: ControlConnection, hello: HelloFrame, credentials: PeerCredentials, service: Service) {
    const { config } = service
    let lane: Lane | undefined
    const older = this.#olderLink(hello, credentials, service)
    // Its slot is free then, unless it has offers out.
    older?.supersede()
    const id =
      older?.identity.ulid ??
      (hello.backend !== null && isValid(hello.backend) && !this.#links.has(hello.backend)
        ? hello.backend
        : ulid())
    const identity = {
      ulid: id,
      slot: this.#slots.take(service.name, older?.id ?? this.#known[id]?.slot),
      service: service.name,
      pid: credentials.pid,
      uid: credentials.uid,
      version: hello.version,
      weight: hello.weight,
      registeredAt: new Date(),
      reconnect: hello.reconnect?.path ?? null,
    }
    try {
      lane = new Lane()
      control.writeWithDescriptor(
        {
          type: 'welcome',
          protocol: PROTOCOL_VERSION,
          capabilities: [],
          broker: this.#brokerId,
          backend: id,
          slot: identity.slot,
          service: service.name,
          heartbeatInterval: HEARTBEAT_INTERVAL,
          tokenTtl: config.tokenTtl,
          ackDeadline: config.ackDeadline,
        },
        lane.receiveEnd,
      )
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.warn({ peerPid: credentials.pid, code: error.code }, 'WELCOME could not be sent')
      this.#slots.release(identity.slot)
      lane?.close()
      control.cutOff()
      return undefined
    }
    control.welcomed()
    const { ackDeadline, tokenTtl, maxStuck, failureLimit, healthCheck } = config
    const link = new BackendLink(
      identity,
      { control, lane },
      { ackDeadline, tokenTtl, maxStuck, failureLimit, heartbeatInterval: HEARTBEAT_INTERVAL },
      apartFromProbes({
        handedOff: (connections) => service.handedOff(connections),
        relayed: (connection, upstream) => service.relayed(connection, upstream),
        returned: (connections, failure, by) => service.returned(connections, failure, by),
        relinquished: (connection) => service.relinquished(connection),
        tokenRejected: (reason) => service.tokenRejected(reason),
        lateAnswer: () => service.lateAnswer(),
        available: () => service.available(),
        ended: (ended) => {
          checks?.stop()
          if (this.#links.get(id) === ended) this.#links.delete(id)
          this.#removeRelaySocket(identity)
          this.#slots.release(identity.slot)
          service.ended(ended)
          this.#onChange?.()
        },
      }),
      this.#logger,
    )
    const checks =
      healthCheck === null
        ? undefined
        : new HealthChecks(
            link,
            {
              ...healthCheck,
              relay: config.handoff === 'off',
              healthy: older?.eligibility.health === 'healthy' || this.#known[id]?.healthy === true,
            },
            () => {
              service.available()
              this.#onChange?.()
            },
            this.#logger,
          )
    const { slot, pid, uid, version, weight } = identity
    this.#logger.info(
      { backend: id, slot, service: service.name, peerPid: pid, uid, version, weight },
      'backend registered',
    )
    this.#links.set(id, link)
    service.joined(link)
    if (this.#releasing !== undefined) link.release(this.#releasing)
    this.#onChange?.()
    checks?.start()
    return link
  }

  /**
   * The link of a process that registers although it has one here: it was asked to move to a successor of this worker, and that one has
   * died. An id is no secret; the kernel says that it is the same process.
   */
  #olderLink({ backend }: HelloFrame, { pid, uid }: PeerCredentials, service: Service) {
    const link = backend === null ? undefined : this.#links.get(backend)
    const same = link?.identity.pid === pid && link.identity.uid === uid
    return same && link.identity.service === service.name ? link : undefined
  }

  /** Unless somebody who is still here has named the same one. */
  #removeRelaySocket(ended: BackendIdentity): void {
    const { reconnect: path, uid } = ended
    if (path === null) return
    for (const service of this.#services.values()) {
      for (const { identity } of service.links) {
        if (identity.reconnect === path && identity !== ended) return
      }
    }
    removeRelaySocket(this.#config.runtimeDir, { path, uid })
  }

  /** A socket that others may have been let in through since it was made proves nothing about who comes. */
  #socketProblem(): string | undefined {
    const { path, mode } = this.#socket
    const found = lstatSync(path, { throwIfNoEntry: false })
    if (found === undefined) return `${path} is gone`
    if (!found.isSocket()) return `${path} is not a socket any more`
    if (found.uid !== process.getuid?.()) return `${path} belongs to uid ${found.uid} now`
    const extra = found.mode & 0o777 & ~mode
    if (extra === 0) return undefined
    return `${path} has mode ${(found.mode & 0o777).toString(8).padStart(4, '0')}, wanted ${mode.toString(8).padStart(4, '0')}`
  }
}
