import { type HelloFrame, PROTOCOL_VERSION } from '@baton/backend-sdk/protocol'
import type { PeerCredentials } from '@baton/native-sendmsg'
import { type Config, isClosed, type Membership } from '../../config/index.ts'

/** Why a process may not register. `retry`: the same HELLO may be accepted later. The text holds no secrets. */
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
  /** Milliseconds before which another dial is refused as well. */
  readonly retryAfter?: number
}

export interface RegistrationRequest {
  readonly hello: HelloFrame
  /** From the kernel (SO_PEERCRED), at the time of connect. */
  readonly credentials: PeerCredentials
  /** Whether Baton has started the process for this service, or it does not matter. */
  readonly managed: boolean
  /** What is wrong with the control socket's owner or mode now; undefined when nothing is. */
  readonly socketProblem: string | undefined
}

/** Characters of a refusal that may go to the names of the services that there are. */
const MAX_LIST_LENGTH = 1024

/** Whether processes of this user may register at all. */
export function isAllowed({ uid, gid }: PeerCredentials, { security }: Config): boolean {
  return security.allowUids.includes(uid) || security.allowGids.includes(gid)
}

/**
 * Whether a process may register as a backend: pure, the same answer for the same question.
 *
 * @param services by name; there may be more than are configured (`baton run`)
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
    const message = `protocol version ${hello.protocol} is not spoken here, wanted ${PROTOCOL_VERSION}`
    return { code: 'ProtocolVersion', message, retry: false }
  }
  const service = services.get(hello.service)
  if (service === undefined) {
    const known = [...services.keys()].join(', ').slice(0, MAX_LIST_LENGTH)
    return {
      code: 'UnknownService',
      message: `there is no service "${hello.service.slice(0, 64)}"; there are: ${known}`,
      retry: false,
    }
  }
  if (isClosed(service.config) && !managed) {
    const message = `the backends of service "${hello.service}" are the processes of its "command", and process ${credentials.pid} is none of them (any more); give it a service of its own, or set "external": true`
    return { code: 'NotManaged', message, retry: false }
  }
  return undefined
}
