import { lstatSync } from 'node:fs'
import {
  ControlConnection,
  type ControlEnd,
  type Frame,
  FrameOrder,
  HANDBACK_CAPABILITY,
  type HelloFrame,
  openControlStream,
  PROTOCOL_VERSION,
  ProtocolError,
  TICKETS_CAPABILITY,
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
import type { Config } from '../../config/config.ts'
import { isClosed } from '../../config/service-rules.ts'
import type { TicketKeys } from '../../ipc/ticket-keys.ts'
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
import { whenKnown } from './managed-wait.ts'
import { isSameProcess, type PeerProcess, processOf } from '../../supervise/proc.ts'
import { RegistrationLimits } from './registration-limits.ts'

/** How long a process that connects may take to send HELLO, in milliseconds. */
const HELLO_TIMEOUT_MS = 5000
/** Maximum control connections that have not sent HELLO; further ones wait in the accept queue. */
const MAX_PENDING = 128
/** Maximum of these per user, if several users may register. Further ones are closed, so that one user cannot keep the others out. */
const MAX_PENDING_PER_USER = 96
/** Maximum accepts per wake-up. The poller reports the rest again, after everything else that is ready. */
const MAX_ACCEPTS = 32
/** Limit and timeout for users who may not register: they get the reason if they send HELLO at once, without taking others' places. */
const MAX_DISALLOWED = 8
const DISALLOWED_TIMEOUT_MS = 500
/** Characters of a peer's service name that are logged. */
const MAX_NAME_LENGTH = 64
/** Pause before the next accept when out of descriptors, in milliseconds. */
const PRESSURE_PAUSE_MS = 100
/** How long a backend may outlive its managed process before it is drained, in milliseconds. Most exit together. */
const LEFTOVER_PAUSE_MS = 500
/** How often each backend's event loop is probed, in milliseconds. */
export const HEARTBEAT_INTERVAL_MS = 1000

/** A process that registers. */
interface Peer {
  readonly process: PeerProcess
  /** The managed process that it is, or descends from. */
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
  /** Processes that the master runs. Without a master, every process counts as managed. */
  readonly managed?: ManagedProcesses | undefined
  /** Keys for TLS session tickets. */
  readonly tickets?: TicketKeys | undefined
  /** A backend has registered or gone, or its health has changed. */
  readonly onChange?: (() => void) | undefined
  readonly logger: Logger
}

/**
 * Registers backends: accepts control connections, checks permissions, sends each backend its lane, and adds the link to its
 * service. Owns the control socket, the slots, and connections that have not sent HELLO.
 */
export class Registry {
  readonly #config: Config
  #socket: ControlSocket
  /** Replaced sockets, until their accept queues are empty. */
  readonly #former = new Map<OwnedFd, Watch | undefined>()
  readonly #services: ReadonlyMap<string, Service>
  readonly #brokerId: string
  readonly #logger: Logger
  readonly #slots = new Slots()
  readonly #refusals = new LogOnce()
  readonly #limits = new RegistrationLimits()
  readonly #tarpit = new Tarpit()
  readonly #pendingConnections = new Set<ControlConnection>()
  /** Number of pending connections by uid. */
  readonly #pending = new Map<number, number>()
  /** Links whose managed process has exited. */
  readonly #leftovers = new WeakSet<BackendLink>()
  /** By id. If a backend has registered again, its newest link. */
  readonly #links = new Map<string, BackendLink>()
  /** Backends of a predecessor. */
  readonly #known: KnownBackends
  /** Ids of those that were healthy there, until they register here. */
  readonly #wereHealthy: Set<string>
  readonly #managed: ManagedProcesses | undefined
  readonly #bindings = new Bindings()
  #tickets: TicketKeys
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
    tickets = {},
    onChange,
    logger,
  }: RegistryOptions) {
    this.#config = config
    this.#socket = socket
    this.#services = services
    this.#brokerId = brokerId
    this.#known = known
    this.#wereHealthy = new Set(Object.keys(known).filter((id) => known[id]?.healthy === true))
    for (const [id, { process }] of Object.entries(known)) if (process) this.#bindings.bind(id, process)
    this.#managed = managed
    this.#tickets = tickets
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

  /** The socket's file was recreated. Connections in the former socket's queue are still accepted. Owns `fd`. */
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

  /** Stops accepting until `start`. Connected peers may still register. */
  pause(): void {
    clearTimeout(this.#resume)
    for (const watch of this.#watches) watch.remove()
    this.#closeFormer()
    this.#watch = undefined
  }

  /** Asks every backend, and each that registers later, to register with the worker that accepts on the control socket now. */
  askToReconnect(reason: string): void {
    this.#releasing = reason
    for (const service of this.#services.values())
      for (const link of service.links) link.askToReconnect(reason)
  }

  /** These are the keys for TLS session tickets now: sends them to the backends that take them. */
  useTickets(tickets: TicketKeys): void {
    this.#tickets = tickets
    for (const [name, service] of this.#services)
      for (const link of service.links) link.giveTicketKeys(this.#ticketKeysOf(name))
  }

  /** Ends registration for good. Links are unaffected: they belong to their services. */
  close(): void {
    this.pause()
    this.#socket.fd.close()
    this.#tarpit.end()
    for (const pending of this.#pendingConnections) pending.cutOff()
  }

  get #watches(): Watch[] {
    return [...this.#former.values(), this.#watch].filter((watch) => watch !== undefined)
  }

  /** Backends in their accept queues see the connection end, and dial again. */
  #closeFormer(): void {
    for (const former of this.#former.keys()) former.close()
    this.#former.clear()
  }

  #accept(): void {
    for (const [former, watch] of this.#former) {
      if (!this.#acceptFrom(former)) return
      // Its file is gone, so no more connections can arrive.
      watch?.remove()
      this.#former.delete(former)
      former.close()
    }
    this.#acceptFrom(this.#socket.fd)
  }

  /** @returns whether the socket's queue is empty; if not, it will be reported again */
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

  /** Without a pause this would spin: the socket stays readable until its connections are accepted. */
  #pause(): void {
    this.#watchFor(0)
    this.#resume = setTimeout(() => this.#watchFor(EPOLLIN), PRESSURE_PAUSE_MS)
  }

  #watchFor(events: number): void {
    for (const watch of this.#watches) watch.modify(events)
  }

  /** Handles a connection from accept to HELLO; later frames go to its link. Owns `fd`, even when it throws. */
  #accepted(fd: OwnedFd): void {
    let credentials: PeerCredentials
    try {
      credentials = peerCredentials(fd.fd)
    } catch (error) {
      closeReachable(fd, true)
      throw error
    }
    const allowed = isAllowed(credentials, this.#config)
    if (allowed && this.#limits.isExhausted(credentials, performance.now())) return this.#tarpit.close(fd)
    const pending = this.#pending.get(credentials.uid) ?? 0
    const full = allowed
      ? pending >= MAX_PENDING_PER_USER && isShared(this.#config)
      : this.#disallowed >= MAX_DISALLOWED
    if (full) return closeReachable(fd, true)

    let link: BackendLink | undefined
    let helloReceived = false
    let forgotten = false
    let decided = false
    let stopWaiting: (() => void) | undefined
    const waiting: Frame[] = []
    const stream = openControlStream(fd, refuseDescriptors(fd.fd) ? undefined : this.#poller)
    const control = new ControlConnection(stream, new FrameOrder('broker'), {
      frames: (frames) => {
        if (decided) return link?.read(frames)
        waiting.push(...frames)
        if (helloReceived) return undefined
        helloReceived = true
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
          this.#logger.warn({ peerPid: pid, uid }, 'a process connected and sent no HELLO')
        }
        control.cutOff()
      },
      allowed ? HELLO_TIMEOUT_MS : DISALLOWED_TIMEOUT_MS,
    )
    const forget = () => {
      if (forgotten) return
      forgotten = true
      clearTimeout(timeout)
      if (!allowed) this.#disallowed -= 1
      else if (this.#pendingConnections.delete(control)) this.#count(credentials.uid, -1)
    }
    if (!allowed) this.#disallowed += 1
    else if (this.#pendingConnections.add(control)) this.#count(credentials.uid, 1)
  }

  #notUnderstood({ code, message }: ProtocolError, { pid, uid }: PeerCredentials): void {
    if (!this.#refusals.isNew(`${uid}/${message}`)) return
    this.#logger.warn(
      { peerPid: pid, uid, code, reason: message },
      'a process connected and broke the protocol',
    )
  }

  /** Counts pending connections of a user. */
  #count(uid: number, change: 1 | -1): void {
    const count = (this.#pending.get(uid) ?? 0) + change
    if (count === 0) this.#pending.delete(uid)
    else this.#pending.set(uid, count)
  }

  /** Calls `decide` once it is known whether Baton started the process, if that matters. @returns see `whenKnown` */
  #whenKnown(hello: HelloFrame, credentials: PeerCredentials, decide: () => void): (() => void) | undefined {
    const service = this.#services.get(hello.service)
    const matters = service !== undefined && isClosed(service.config) && isAllowed(credentials, this.#config)
    const process = { pid: credentials.pid, claimed: hello.backend }
    return whenKnown(matters ? this.#managed : undefined, process, decide)
  }

  #register(
    control: ControlConnection,
    hello: HelloFrame,
    credentials: PeerCredentials,
  ): BackendLink | undefined {
    const owner = this.#managed?.ownerOf(credentials.pid, hello.backend)
    const managed = this.#managed === undefined || owner?.service === hello.service
    const request = { hello, credentials, managed, socketProblem: this.#socketProblem() }
    const service = this.#services.get(hello.service)
    const process = processOf(credentials)
    const older = this.#olderLink(hello, process)
    const refusal =
      this.#limitProblem(credentials) ??
      admit(request, this.#config, this.#services) ??
      this.#replacementProblem(older, credentials)
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

  /** Not for users who may not register: they have limits of their own (`MAX_DISALLOWED`), and get another refusal. */
  #limitProblem(credentials: PeerCredentials): Refusal | undefined {
    if (!isAllowed(credentials, this.#config)) return undefined
    return this.#limits.dialled(credentials, performance.now())
  }

  /** An open registration may be replaced if it was asked to move, and a few times if it was not. */
  #replacementProblem(older: BackendLink | undefined, credentials: PeerCredentials): Refusal | undefined {
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

  #ticketKeysOf(service: string): readonly string[] | undefined {
    return Object.hasOwn(this.#tickets, service) ? this.#tickets[service] : undefined
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
    const grantsHandBack =
      config.handBack !== 'off' &&
      config.handoff !== 'off' &&
      hello.capabilities.includes(HANDBACK_CAPABILITY)
    const grantsTickets = config.ticketRotation !== null && hello.capabilities.includes(TICKETS_CAPABILITY)
    // Frees its slot, unless it has open offers.
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
      lane = new Lane(grantsHandBack)
      control.writeWithDescriptor(
        {
          type: 'welcome',
          protocol: PROTOCOL_VERSION,
          capabilities: [
            ...(grantsHandBack ? [HANDBACK_CAPABILITY] : []),
            ...(grantsTickets ? [TICKETS_CAPABILITY] : []),
          ],
          broker: this.#brokerId,
          backend: id,
          slot: identity.slot,
          service: service.name,
          heartbeatInterval: HEARTBEAT_INTERVAL_MS,
          tokenTtl: config.tokenTtl,
          ackDeadline: config.ackDeadline,
          handBackWindow: grantsHandBack ? config.handBackWindow : null,
          parkAfter: grantsHandBack ? config.parkAfter : null,
        },
        lane.receiveEnd,
      )
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#logger.warn({ peerPid: process.pid, code: error.code }, 'cannot send WELCOME')
      this.#slots.giveBack(identity.slot)
      lane?.close()
      control.cutOff()
      return undefined
    }
    control.welcomed()
    const wasHealthy = this.#wereHealthy.delete(id)
    const { ackDeadline, tokenTtl, maxStuck, failureLimit, healthCheck } = config
    const link: BackendLink = new BackendLink(
      identity,
      { control, lane },
      {
        ackDeadline,
        tokenTtl,
        maxStuck,
        handBackWindow: grantsHandBack ? config.handBackWindow : undefined,
        takesTicketKeys: grantsTickets,
        failureLimit,
        heartbeatInterval: HEARTBEAT_INTERVAL_MS,
        drainBegins: () => this.#onChange?.(),
        ended: (ended) => {
          checks?.stop()
          // It was to move to another worker. If that one fails, it returns.
          if (ended.askedToReconnect && ended.eligibility.health === 'healthy') this.#wereHealthy.add(id)
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
              healthy: older === undefined ? wasHealthy : older.eligibility.health === 'healthy',
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
    // It lost its broker in the middle of a drain. Before it joins: it must not be chosen, even for clients that are held.
    if (hello.draining === true) link.alreadyDrains()
    // Before it is offered anything: its first client resumes too.
    link.giveTicketKeys(this.#ticketKeysOf(service.name))
    this.#links.set(id, link)
    service.joined(link)
    if (this.#releasing !== undefined) link.askToReconnect(this.#releasing)
    if (owner?.leaving === true) this.#retire(link, 'its managed process is being replaced or stopped')
    this.#onChange?.()
    checks?.start()
    return link
  }

  /**
   * The link of a process that registers although it already has one here: for example, it was asked to move to a successor of this
   * worker, and the successor died. Ids are not secret; that it is the same process is known from the kernel.
   */
  #olderLink({ backend, service }: HelloFrame, process: PeerProcess) {
    const link = backend === null ? undefined : this.#links.get(backend)
    if (link === undefined || link.identity.service !== service) return undefined
    const { pid, uid, started = null } = link.identity
    return isSameProcess({ pid, uid, started }, process) ? link : undefined
  }

  /** The id that the process claims, if it is its own; otherwise a new one. */
  #idFor({ backend: claimed, service }: HelloFrame, { process, owner }: Peer): string {
    if (claimed === null || !isValid(claimed)) return ulid()
    const isTheirs =
      this.#managed?.get(claimed) === undefined
        ? this.#bindings.allows(claimed, process)
        : // A managed process, such as a watcher, may start another child with the same id.
          owner?.id === claimed && (this.#bindings.allows(claimed, process) || this.#bindings.isFree(claimed))
    if (isTheirs && !this.#links.has(claimed)) return claimed
    const { pid, uid } = process
    // No warning for a second backend in one process.
    const mine = this.#links.get(claimed)?.identity.pid === pid
    if (!mine && this.#refusals.isNew(`${pid}/${uid}/${claimed}`)) {
      this.#logger.warn(
        { peerPid: pid, uid, service, claimed },
        'the claimed backend id belongs to another process; assigning a new one',
      )
    }
    return ulid()
  }

  /** The list of managed processes has changed: drains backends whose managed process has exited. */
  #review(): void {
    for (const link of this.#links.values()) {
      const { owner } = link.identity
      if (owner === null || owner === undefined || this.#managed?.get(owner) !== undefined) continue
      if (this.#leftovers.has(link)) continue
      this.#leftovers.add(link)
      // Usually the backend exits at the same moment.
      setTimeout(() => {
        if (this.#links.get(link.identity.ulid) === link) this.#retire(link, 'its managed process has exited')
      }, LEFTOVER_PAUSE_MS).unref()
    }
  }

  #retire(link: BackendLink, reason: string): void {
    if (link.eligibility.state === 'draining') return
    const { ulid: backend, slot, service, pid: peerPid } = link.identity
    this.#logger.warn({ backend, slot, service, peerPid, reason }, 'draining backend')
    const config = this.#services.get(service)?.config
    link.drain(config?.drainDeadline ?? this.#config.drainDeadline, reason)
  }

  /** Keeps the socket if another registered backend uses the same path. */
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

  /** Why the control socket's file no longer limits who can connect; undefined if it does. */
  #socketProblem(): string | undefined {
    const { path, mode } = this.#socket
    const found = lstatSync(path, { throwIfNoEntry: false })
    if (found === undefined) return `${path} is gone`
    if (!found.isSocket()) return `${path} is no longer a socket`
    if (found.uid !== process.getuid?.()) return `${path} is now owned by uid ${found.uid}`
    const extra = found.mode & 0o777 & ~mode
    if (extra === 0) return undefined
    return `${path} has mode ${(found.mode & 0o777).toString(8).padStart(4, '0')}, wanted ${mode.toString(8).padStart(4, '0')}`
  }
}
