import { lstatSync } from 'node:fs'
import {
  ControlConnection,
  type ControlEnd,
  type Frame,
  FrameOrder,
  type HelloFrame,
  openControlStream,
  PROTOCOL_VERSION,
  ProtocolError,
} from '@baton/backend-sdk/protocol'
import {
  acceptMany,
  closeReachable,
  EPOLLIN,
  NativeError,
  OwnedFd,
  type PeerCredentials,
  peerCredentials,
  type Poller,
  refuseDescriptors,
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
import { isShared } from '../sockets.ts'
import { admit, isAllowed } from './admission.ts'
import { type BackendIdentity, BackendLink } from './backend-link.ts'
import { LogOnce } from './log-once.ts'
import { Slots } from './slots.ts'

/** A process that connects has this long to say HELLO, in milliseconds. */
const HELLO_TIMEOUT = 5000
/** So many may be connected without having said HELLO; more wait in the kernel. */
const MOST_STRANGERS = 128
/** Of them for one user, where several may register: further ones are closed, so that one user cannot keep the others out. */
const MAX_PENDING_PER_USER = 96
/** Maximum accepts per wake-up: those that wait are reported again, after everything else that is ready. */
const MAX_ACCEPTS = 32
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
  readonly #socket: ControlSocket
  readonly #services: ReadonlyMap<string, Service>
  readonly #brokerId: string
  readonly #logger: Logger
  readonly #slots = new Slots()
  readonly #refusals = new LogOnce()
  readonly #strangers = new Set<ControlConnection>()
  /** How many of them each user has. */
  readonly #pending = new Map<number, number>()
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
    refuseDescriptors(this.#socket.fd.fd)
    this.#watch ??= poller.add(this.#socket.fd.fd, EPOLLIN, () => this.#accept())
  }

  /** Accepts nobody until `start`. Who has connected before may still register. */
  pause(): void {
    clearTimeout(this.#resume)
    this.#watch?.remove()
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

  #accept(): void {
    const room = Math.min(MAX_ACCEPTS, MOST_STRANGERS - this.#strangers.size)
    if (room <= 0) return this.#pause()
    const { connections, error } = acceptMany(this.#socket.fd.fd, room)
    let failure = error
    for (const accepted of connections) {
      try {
        this.#meet(new OwnedFd(accepted.fd))
      } catch (reason) {
        if (!(reason instanceof NativeError)) throw reason
        failure ??= reason
      }
    }
    if (failure === undefined) {
      this.#pressure = undefined
      return
    }
    if (this.#pressure !== failure.code)
      this.#logger.error({ code: failure.code }, 'cannot accept on the control socket')
    this.#pressure = failure.code
    this.#pause()
  }

  /** The socket stays readable while nobody is accepted from it; looking again later is not a spin. */
  #pause(): void {
    this.#watch?.modify(0)
    this.#resume = setTimeout(() => this.#watch?.modify(EPOLLIN), PRESSURE_PAUSE)
  }

  /** From accept to HELLO. Afterwards the connection's frames go to its link. Owns `fd`, also when it throws. */
  #meet(fd: OwnedFd): void {
    let credentials: PeerCredentials
    try {
      credentials = peerCredentials(fd.fd)
    } catch (error) {
      closeReachable(fd, true)
      throw error
    }
    const welcome = isAllowed(credentials, this.#config)
    const pending = this.#pending.get(credentials.uid) ?? 0
    const full = welcome
      ? pending >= MAX_PENDING_PER_USER && isShared(this.#config)
      : this.#unwelcome >= MOST_UNWELCOME
    if (full) return closeReachable(fd, true)

    let link: BackendLink | undefined
    let met = false
    let known = false
    const stream = openControlStream(fd, refuseDescriptors(fd.fd) ? undefined : this.#poller)
    const control = new ControlConnection(stream, new FrameOrder('broker'), {
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
        if (link) return link.controlEnded(end)
        control.release()
        if (end.error instanceof ProtocolError) this.#notUnderstood(end.error, credentials)
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
      if (!welcome) this.#unwelcome -= 1
      else if (this.#strangers.delete(control)) this.#count(credentials.uid, -1)
    }
    if (!welcome) this.#unwelcome += 1
    else if (this.#strangers.add(control)) this.#count(credentials.uid, 1)
  }

  #notUnderstood({ code, message }: ProtocolError, { pid, uid }: PeerCredentials): void {
    if (!this.#refusals.isNew(`${uid}/${message}`)) return
    this.#logger.warn(
      { peerPid: pid, uid, code, reason: message },
      'a process connected and broke the protocol',
    )
  }

  /** One connection more, or less, of this user that has not said HELLO. */
  #count(uid: number, change: 1 | -1): void {
    const count = (this.#pending.get(uid) ?? 0) + change
    if (count === 0) this.#pending.delete(uid)
    else this.#pending.set(uid, count)
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
