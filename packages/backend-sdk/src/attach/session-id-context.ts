import { createHash } from 'node:crypto'
import * as tls from 'node:tls'

/** OpenSSL's SSL_MAX_SID_CTX_LENGTH. */
const MAX_LENGTH = 32

/**
 * The session id context: OpenSSL resumes a session only where it is the same. Node's default is a hash of the command line, so that two
 * release folders differ. It can be set publicly only in the options of the server, which was created by the app: so what the option
 * would set is set here. These members are undocumented, and the same in Node 20.18, 22, 24 and 26 (`Server.prototype.setSecureContext` in
 * lib/_tls_wrap.js). Where one is missing, nothing is set, and sessions resume only in processes with the same command line.
 *
 * @returns whether all processes of the service have the same now
 */
export function shareSessionIdContext(server: tls.Server, service: string): boolean {
  const current: unknown = Reflect.get(server, 'sessionIdContext')
  // The app's own, which may be the same in all its processes.
  if (current !== defaultOfThisProcess()) return true
  const credentials: unknown = Reflect.get(server, '_sharedCreds')
  const context: unknown = isObject(credentials) ? Reflect.get(credentials, 'context') : undefined
  const set: unknown = isObject(context) ? Reflect.get(context, 'setSessionIdContext') : undefined
  if (typeof current !== 'string' || typeof set !== 'function') {
    process.emitWarning(
      'TLS sessions do not resume after a deploy into another folder with this Node version: set the option sessionIdContext of the server',
      { code: 'BATON_WARN_NO_SESSION_ID_CONTEXT', type: 'BatonWarning' },
    )
    return false
  }
  const shared = createHash('sha256').update(`baton service ${service}`).digest('hex').slice(0, MAX_LENGTH)
  Reflect.apply(set, context, [shared])
  return true
}

let known: { readonly value: unknown } | undefined

function defaultOfThisProcess(): unknown {
  known ??= { value: Reflect.get(tls.createServer(), 'sessionIdContext') }
  return known.value
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
