import { type HelloFrame, PROTOCOL_VERSION } from '@baton/backend-sdk/protocol'
import type { PeerCredentials } from '@baton/native-sendmsg'
import { MAX_UNIX_PATH_BYTES } from '../../config/address.ts'
import type { Config } from '../../config/config.ts'
import { isClosed, type Membership } from '../../config/service-rules.ts'

/** Why a process may not register. `retry`: the same HELLO may be accepted later. The message contains no secrets. */
export interface Refusal {
  readonly code:
    | 'SocketModeInsecure'
    | 'UidNotAllowed'
    | 'SecretMismatch'
    | 'ProtocolVersion'
    | 'UnknownService'
    | 'TooManyRegistrations'
    | 'AlreadyRegistered'
    | 'NotManaged'
  readonly message: string
  readonly retry: boolean
  /** Milliseconds within which another dial would also be refused. */
  readonly retryAfter?: number
}

export interface RegistrationRequest {
  readonly hello: HelloFrame
  /** From the kernel (SO_PEERCRED), as of connect. */
  readonly credentials: PeerCredentials
  /** Whether Baton started the process for this service, or there is no master to ask. */
  readonly managed: boolean
  /** The problem with the control socket's owner or mode, if there is one. */
  readonly socketProblem: string | undefined
}

/** Maximum characters of a refusal's list of services. */
const MAX_LIST_LENGTH = 1024

/** Whether processes of this user or group may register at all. */
export function isAllowed({ uid, gid }: PeerCredentials, { security }: Config): boolean {
  return security.allowUids.includes(uid) || security.allowGids.includes(gid)
}

/**
 * Decides whether a process may register as a backend. Pure.
 *
 * @param services by name; may include services that are not in `config` (`baton run`)
 */
export function admit(
  request: RegistrationRequest,
  config: Config,
  services: Pick<ReadonlyMap<string, { readonly config: Membership }>, 'get' | 'keys'>,
): Refusal | undefined {
  const { hello, credentials, managed, socketProblem } = request
  const { registrationSecret } = config.security
  if (socketProblem !== undefined) return { code: 'SocketModeInsecure', message: socketProblem, retry: true }
  if (!isAllowed(credentials, config)) {
    const message = `uid ${credentials.uid} (gid ${credentials.gid}) is in neither security.allowUids nor security.allowGids`
    return { code: 'UidNotAllowed', message, retry: false }
  }
  if (registrationSecret !== null && (hello.secret === null || !registrationSecret.matches(hello.secret))) {
    const message =
      hello.secret === null ? 'a registration secret is required' : 'the registration secret is wrong'
    return { code: 'SecretMismatch', message, retry: false }
  }
  if (hello.protocol !== PROTOCOL_VERSION) {
    const message = `protocol version ${hello.protocol} is not supported, wanted ${PROTOCOL_VERSION}`
    return { code: 'ProtocolVersion', message, retry: false }
  }
  const service = services.get(hello.service)
  if (service === undefined) {
    const known = [...services.keys()].join(', ').slice(0, MAX_LIST_LENGTH)
    const others = known === '' ? 'no service is configured' : `there are: ${known}`
    return {
      code: 'UnknownService',
      message: `there is no service "${hello.service.slice(0, 64)}"; ${others}`,
      retry: false,
    }
  }
  if (isClosed(service.config) && !managed) {
    const message = `service "${hello.service}" accepts only processes of its "command", and process ${credentials.pid} is not (or no longer) one of them; give it its own service, or set "external": true`
    return { code: 'NotManaged', message, retry: false }
  }
  return undefined
}

/**
 * The relay endpoint that a backend names. One that the broker could not dial counts as none, so that relays go straight to other
 * backends and no failures are counted. A relative path is refused: it would be resolved in the broker's working directory.
 */
export function usableEndpoint(named: HelloFrame['reconnect']): {
  path: string | null
  /** Why it cannot be used. Leaves out the path itself, which the backend chose. */
  problem?: string
} {
  if (named === null) return { path: null }
  const { path } = named
  if (!path.startsWith('/')) return { path: null, problem: 'reconnect.path is not absolute' }
  if (path.includes('\0')) return { path: null, problem: 'reconnect.path contains a NUL' }
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_UNIX_PATH_BYTES) {
    return { path: null, problem: `reconnect.path is ${bytes} bytes long, at most ${MAX_UNIX_PATH_BYTES}` }
  }
  return { path }
}
