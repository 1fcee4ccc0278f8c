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
import type { KnownBackends, ManagedReport } from '../../ipc/messages.ts'
import { type Config, isClosed } from '../../config/config.ts'
import { Lane } from '../backend/lane.ts'
import { HealthChecks } from '../health/health-checks.ts'
import { removeRelaySocket } from '../relay/relay-sockets.ts'
import type { ControlSocket } from '../../listening/sockets.ts'
import type { Service } from '../service/service.ts'
import { isShared } from '../../listening/sockets.ts'
import { admit, isAllowed, type Refusal, usableEndpoint } from './admission.ts'
import { BackendLink } from '../backend/backend-link.ts'
import type { BackendIdentity } from '../backend/link-host.ts'
import { Bindings, Slots } from './names.ts'
import { LogOnce, Tarpit } from './refusals.ts'
import type { ManagedProcesses } from './managed-processes.ts'
import { isSameProcess, type PeerProcess, processOf } from '../../supervise/proc.ts'
import { RegistrationLimits } from './registration-limits.ts'

/** A process that connects has this long to say HELLO, in milliseconds. */
const HELLO_TIMEOUT_MS = 5000
/** So many may be connected without having said HELLO; more wait in the kernel. */
const MAX_PENDING = 128
/** Of them for one user, where several may register: further ones are closed, so that one user cannot keep the others out. */
const MAX_PENDING_PER_USER = 96
/** Maximum accepts per wake-up: those that wait are reported again, after everything else that is ready. */
const MAX_ACCEPTS = 32
/** The same for users who may not register: they hear why if they ask at once, and take nobody's place. */
const MAX_DISALLOWED = 8
const DISALLOWED_TIMEOUT_MS = 500
/** What a peer calls a service may be long; a log line and an answer need not. */
const MAX_NAME_LENGTH = 64
/** Out of descriptors: pause before the next accept, in milliseconds. */
const PRESSURE_PAUSE_MS = 100
/** What the master says of a process that it has just started arrives within this time, in milliseconds, also on a busy machine. */
const MANAGED_TIMEOUT_MS = 1000
/** How long a backend may outlive its managed process before it is drained, in milliseconds: most end together. */
const LEFTOVER_PAUSE_MS = 500
/** How often each backend's event loop is probed, in milliseconds. */
export const HEARTBEAT_INTERVAL_MS = 1000

/** The process that registers. */
interface Peer {
  readonly process: PeerProcess
  /** The managed process that it is, or comes from. */
  readonly owner: ManagedReport | undefined
}

export interface RegistryOptions {
  readonly config: Config
  readonly socket: ControlSocket
  readonly services: ReadonlyMap<string, Service>
  /** ULID of this process. */
  readonly brokerId: string
  /** Backends of a predecessor. */
  readonly known?: KnownBackends | undefined
  /** What the master runs; without one, processes are not told apart. */
  readonly managed?: ManagedProcesses | undefined
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
  readonly #limits = new RegistrationLimits()
  readonly #tarpit = new Tarpit()
  readonly #pendingConnections = new Set<ControlConnection>()
  /** How many of them each user has. */
  readonly #pending = new Map<number, number>()
  /** Links whose managed process has ended. */
  readonly #leftovers = new WeakSet<BackendLink>()
  /** By id; of a backend that has registered anew, its newest. */
  readonly #links = new Map<string, BackendLink>()
  /** Backends of a predecessor. */
  readonly #known: KnownBackends
  readonly #managed: ManagedProcesses | undefined
  readonly #bindings = new Bindings()
  readonly #onChange: (() => void) | undefined
  #releasing: string | undefined
  #disallowed = 0
  #pressure: string | undefined
  #poller: Poller | undefined
  #watch: Watch | undefined
  #resume: NodeJS.Timeout | undefined

  constructor({
    config,
    socket,
    services,
    brokerId,
    known = {},
    managed,
    onChange,
    logger,
  }: RegistryOptions) {
    this.#config = config
    this.#socket = socket
    this.#services = services
    this.#brokerId = brokerId
    this.#known = known
    for (const [id, { process }] of Object.entries(known)) if (process) this.#bindings.bind(id, process)
    this.#managed = managed
    managed?.onUpdate(() => this.#review())
    this.#onChange = onChange
    this.#logger = logger
  }

  start(poller: Poller): void {
    this.#releasing = undefined
    this.#poller = poller
    const watch = (fd: OwnedFd) => {
      refuseDescriptors(fd.fd)
      return poller.add(fd.fd, EPOLLIN, () => this.#accept())
    }
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
  askToReconnect(reason: string): void {
    this.#releasing = reason
    for (const service of this.#services.values())
      for (const link of service.links) link.askToReconnect(reason)
  }

  /** Nobody can register any more. The links belong to their services. */
  close(): void {
    this.pause()
    this.#socket.fd.close()
    this.#tarpit.end()
    for (const stranger of this.#pendingConnections) stranger.cutOff()
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

  /** @returns whether its queue is empty; it is looked at again otherwise */
  #acceptFrom(socket: OwnedFd): boolean {
    const room = Math.min(MAX_ACCEPTS, MAX_PENDING - this.#pendingConnections.size)
    if (room <= 0) {
      this.#pause()
      return false
    }
    const { connections, error } = acceptMany(socket.fd, room)
    let failure = error
    for (const accepted of connections) {
      try {
        this.#accepted(new OwnedFd(accepted.fd))
      } catch (reason) {
        if (!(reason instanceof NativeError)) throw reason
        failure ??= reason
      }
    }
    if (failure === undefined) {
      this.#pressure = undefined
      return connections.length < room
    }
    if (this.#pressure !== failure.code)
      this.#logger.error({ code: failure.code }, 'cannot accept on the control socket')
    this.#pressure = failure.code
    this.#pause()
    return false
  }

  /** The socket stays readable while nobody is accepted from it; looking again later is not a spin. */
  #pause(): void {
    this.#watchFor(0)
    this.#resume = setTimeout(() => this.#watchFor(EPOLLIN), PRESSURE_PAUSE_MS)
  }

  #watchFor(events: number): void {
    for (const watch of this.#watches) watch.modify(events)
  }

  /** From accept to HELLO. Afterwards the connection's frames go to its link. Owns `fd`, also when it throws. */
  #accepted(fd: OwnedFd): void {
    let credentials: PeerCredentials
    try {
      credentials = peerCredentials(fd.fd)
    } catch (error) {
      closeReachable(fd, true)
      throw error
    }
    const welcome = isAllowed(credentials, this.#config)
    if (welcome && this.#limits.isExhausted(credentials, performance.now())) return this.#tarpit.close(fd)
    const pending = this.#pending.get(credentials.uid) ?? 0
    const full = welcome
      ? pending >= MAX_PENDING_PER_USER && isShared(this.#config)
      : this.#disallowed >= MAX_DISALLOWED
    if (full) return closeReachable(fd, true)

    let link: BackendLink | undefined
    let met = false
    let known = false
    let decided = false
    let stopWaiting: (() => void) | undefined
    const waiting: Frame[] = []
    const stream = openControlStream(fd, refuseDescriptors(fd.fd) ? undefined : this.#poller)
    const control = new ControlConnection(stream, new FrameOrder('broker'), {
      frames: (frames) => {
        if (decided) return link?.read(frames)
        waiting.push(...frames)
        if (met) return undefined
        met = true
        const hello = waiting.shift() as HelloFrame
        clearTimeout(timeout)
        stopWaiting = this.#whenKnown(hello, credentials, () => {
          decided = true
          forget()
          link = this.#register(control, hello, credentials)
          if (waiting.length > 0) link?.read(waiting)
        })
        return undefined
      },
      ended: (end: ControlEnd) => {
        stopWaiting?.()
        forget()
        if (link) return link.controlEnded(end)
        control.close()
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
      welcome ? HELLO_TIMEOUT_MS : DISALLOWED_TIMEOUT_MS,
    )
    const forget = () => {
      if (known) return
      known = true
      clearTimeout(timeout)
      if (!welcome) this.#disallowed -= 1
      else if (this.#pendingConnections.delete(control)) this.#count(credentials.uid, -1)
    }
    if (!welcome) this.#disallowed += 1
    else if (this.#pendingConnections.add(control)) this.#count(credentials.uid, 1)
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

  /**
   * Calls `decide` when it is known whether Baton has started the process, mostly at once: the master's word about a process and that
   * process's HELLO come over two sockets, and either may be read first.
   *
   * @returns ends the wait; undefined when there is none
   */
  #whenKnown(
    hello: HelloFrame,
    { pid, uid, gid }: PeerCredentials,
    decide: () => void,
  ): (() => void) | undefined {
    const managed = this.#managed
    const service = this.#services.get(hello.service)
    const isKnown = () => managed === undefined || managed.ownerOf(pid, hello.backend) !== undefined
    const matters =
      service !== undefined && isClosed(service.config) && isAllowed({ pid, uid, gid }, this.#config)
    if (!matters || isKnown()) {
      decide()
      return undefined
    }
    const stop = () => {
      clearTimeout(timer)
      forget?.()
    }
    const settle = () => {
      stop()
      decide()
    }
    const timer = setTimeout(settle, MANAGED_TIMEOUT_MS)
    const forget = managed?.onUpdate(() => {
      if (isKnown()) settle()
    })
    return stop
  }

  #register(
    control: ControlConnection,
    hello: HelloFrame,
    credentials: PeerCredentials,
  ): BackendLink | undefined {
    const owner = this.#managed?.ownerOf(credentials.pid, hello.backend)
    const managed = this.#managed === undefined || owner?.service === hello.service
    const applicant = { hello, credentials, managed, socketProblem: this.#socketProblem() }
    const service = this.#services.get(hello.service)
    const process = processOf(credentials)
    const older = this.#olderLink(hello, process)
    const refusal =
      this.#limitProblem(credentials) ??
      admit(applicant, this.#config, this.#services) ??
      this.#livingProblem(older, credentials)
    if (refusal !== undefined || service === undefined) {
      const { code, message, retry, retryAfter }: Refusal = refusal ?? {
        code: 'UnknownService',
        message: hello.service,
        retry: false,
      }
      const { pid, uid, gid } = credentials
      if (this.#refusals.isNew(code === 'UidNotAllowed' ? `${uid}/${code}` : `${pid}/${uid}/${code}`)) {
        this.#logger.warn(
          {
            peerPid: pid,
            uid,
            gid,
            service: hello.service.slice(0, MAX_NAME_LENGTH),
            backend: hello.backend,
            code,
            reason: message,
          },
          'registration refused',
        )
      }
      control.write({ type: 'refused', code, message, retry, retryAfter: retryAfter ?? null })
      control.finish()
      return undefined
    }
    return this.#welcome(control, hello, { process, owner }, service, older)
  }

  /** Users who may not register have limits of their own (`MAX_DISALLOWED`), and are told that. */
  #limitProblem(credentials: PeerCredentials): Refusal | undefined {
    if (!isAllowed(credentials, this.#config)) return undefined
    return this.#limits.dialled(credentials, performance.now())
  }

  /** A registration that lives may be replaced when it was asked to move, and a few times when it was not. */
  #livingProblem(older: BackendLink | undefined, credentials: PeerCredentials): Refusal | undefined {
    if (older === undefined) return this.#limits.adds(credentials, this.#countOf(credentials))
    if (older.askedToReconnect) return undefined
    return this.#limits.replaces(older.identity.ulid, older.identity.slot, performance.now())
  }

  #countOf({ pid, uid }: PeerCredentials): number {
    let count = 0
    for (const { identity } of this.#links.values())
      if (identity.pid === pid && identity.uid === uid) count += 1
    return count
  }

  #welcome(
    control: ControlConnection,
    hello: HelloFrame,
    peer: Peer,
    service: Service,
    older: BackendLink | undefined,
  ) {
    const { config } = service
    const { process, owner } = peer
    let lane: Lane | undefined
    // Its slot is free then, unless it has offers out.
    older?.supersede()
    const id = older?.identity.ulid ?? this.#idFor(hello, peer)
    this.#bindings.bind(id, process)
    const endpoint = usableEndpoint(hello.reconnect)
    const identity = {
      ulid: id,
      slot: this.#slots.take(service.name, older?.id ?? this.#known[id]?.slot),
      service: service.name,
      ...process,
      owner: owner?.service === service.name ? owner.id : null,
      version: hello.version,
      weight: hello.weight,
      registeredAt: new Date(),
      reconnect: endpoint.path,
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
          heartbeatInterval: HEARTBEAT_INTERVAL_MS,
          tokenTtl: config.tokenTtl,
          ackDeadline: config.ackDeadline,
        },
        lane.receiveEnd,
      )
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.warn({ peerPid: process.pid, code: error.code }, 'WELCOME could not be sent')
      this.#slots.giveBack(identity.slot)
      lane?.close()
      control.cutOff()
      return undefined
    }
    control.welcomed()
    const { ackDeadline, tokenTtl, maxStuck, failureLimit, healthCheck } = config
    const link: BackendLink = new BackendLink(
      identity,
      { control, lane },
      {
        ackDeadline,
        tokenTtl,
        maxStuck,
        failureLimit,
        heartbeatInterval: HEARTBEAT_INTERVAL_MS,
        ended: (ended) => {
          checks?.stop()
          if (this.#links.get(id) === ended) this.#links.delete(id)
          this.#removeRelaySocket(identity)
          this.#slots.giveBack(identity.slot)
          this.#onChange?.()
        },
      },
      service,
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
    if (endpoint.problem !== undefined && this.#refusals.isNew(`${pid}/${uid}/endpoint`)) {
      this.#logger.warn(
        { backend: id, slot, peerPid: pid, reason: endpoint.problem },
        'relay endpoint of a backend cannot be used',
      )
    }
    this.#links.set(id, link)
    service.joined(link)
    if (this.#releasing !== undefined) link.askToReconnect(this.#releasing)
    if (owner?.leaving === true)
      this.#retire(link, 'it belongs to a process that is being replaced or stopped')
    this.#onChange?.()
    checks?.start()
    return link
  }

  /**
   * The link of a process that registers although it has one here: it was asked to move to a successor of this worker, and that one has
   * died. An id is no secret; the kernel says that it is the same process.
   */
  #olderLink({ backend, service }: HelloFrame, process: PeerProcess) {
    const link = backend === null ? undefined : this.#links.get(backend)
    if (link === undefined || link.identity.service !== service) return undefined
    const { pid, uid, started = null } = link.identity
    return isSameProcess({ pid, uid, started }, process) ? link : undefined
  }

  /** The one that it asks for, if that is its own; a new one otherwise. */
  #idFor({ backend: claimed, service }: HelloFrame, { process, owner }: Peer): string {
    if (claimed === null || !isValid(claimed)) return ulid()
    const isTheirs =
      this.#managed?.get(claimed) === undefined
        ? this.#bindings.allows(claimed, process)
        : // What a managed process starts again below itself, a watcher say, has the same id.
          owner?.id === claimed && (this.#bindings.allows(claimed, process) || this.#bindings.isFree(claimed))
    if (isTheirs && !this.#links.has(claimed)) return claimed
    const { pid, uid } = process
    // A second backend of one process is no claim of another's.
    const mine = this.#links.get(claimed)?.identity.pid === pid
    if (!mine && this.#refusals.isNew(`${pid}/${uid}/${claimed}`)) {
      this.#logger.warn(
        { peerPid: pid, uid, service, claimed },
        'the id that a process claimed belongs to another one; it gets a new id',
      )
    }
    return ulid()
  }

  /** Managed processes have come or gone: what is left of one that has ended serves no longer. */
  #review(): void {
    for (const link of this.#links.values()) {
      const { owner } = link.identity
      if (owner === null || owner === undefined || this.#managed?.get(owner) !== undefined) continue
      if (this.#leftovers.has(link)) continue
      this.#leftovers.add(link)
      // Mostly it ends at the same moment.
      setTimeout(() => {
        if (this.#links.get(link.identity.ulid) === link)
          this.#retire(link, 'the process that Baton started it with has ended')
      }, LEFTOVER_PAUSE_MS).unref()
    }
  }

  #retire(link: BackendLink, reason: string): void {
    if (link.eligibility.state === 'draining') return
    const { ulid: backend, slot, service, pid: peerPid } = link.identity
    this.#logger.warn({ backend, slot, service, peerPid, reason }, 'backend is drained')
    link.drain(this.#config.drainDeadline, reason)
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
