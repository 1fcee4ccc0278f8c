import type { Server } from 'node:http'
import { http } from '../node-http.ts'
import type { AttachableServer } from './server-kind.ts'

type Listener = ReturnType<Server['listeners']>[number]

/**
 * Node's own connection tracking: the part of `http.Server` that enforces `headersTimeout` and `requestTimeout`, and that
 * `closeIdleConnections()` and `closeAllConnections()` use. Node starts it in a `listening` listener that the constructor adds
 * (`setupConnectionsTracking` in lib/_http_server.js, the same function for http, https and http2 with `allowHTTP1`; checked on
 * Node 20.18, 22, 24 and 26), so a server that never listens has none.
 *
 * Only that listener is called. The alternatives are worse:
 * - Emitting `listening` would also run the app's listeners, which read the port of an address that does not exist.
 * - Listening on a private socket would keep the app from listening itself (ERR_SERVER_ALREADY_LISTEN), let `close()` call back
 *   with adopted requests in flight, and give clients a second way in.
 * - Timers of our own would not know when a request begins; only Node's parser does.
 *
 * If the app listens later, Node calls the listener again, which keeps the list and renews the timer.
 */
const trackers: readonly Listener[] = new http.Server().listeners('listening')

/**
 * Starts connection tracking. Must be called before the first connection is adopted, because connections register when they
 * begin. Its timer does not keep the process alive, and ends with `server.close()`.
 *
 * @returns whether this server has it, which means that it speaks HTTP/1
 */
export function startConnectionTracking(server: AttachableServer, known = trackers): boolean {
  if (known.length === 0) {
    process.emitWarning(
      'headersTimeout and requestTimeout are not enforced on adopted connections by this Node version',
      {
        code: 'BATON_WARN_NO_CONNECTION_TRACKING',
        type: 'BatonWarning',
      },
    )
  }
  const listeners = server.listeners('listening')
  const found = known.filter((tracker) => listeners.includes(tracker))
  for (const tracker of found) Reflect.apply(tracker, server, [])
  return found.length > 0
}
