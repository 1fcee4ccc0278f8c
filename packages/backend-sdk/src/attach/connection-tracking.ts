import { Server } from 'node:http'
import type { AttachableServer } from './server-kind.ts'

type Listener = ReturnType<Server['listeners']>[number]

/**
 * Node's own connection tracking, the part of `http.Server` that enforces `headersTimeout` and `requestTimeout` and that
 * `closeIdleConnections()` and `closeAllConnections()` go through. Node sets it up in a `listening` listener that the
 * constructor adds (`setupConnectionsTracking` in lib/_http_server.js, the same function for http, https and http2 with
 * `allowHTTP1`; checked on Node 20.18, 22, 24 and 26), so that a server which never listens does without.
 *
 * Why that listener is called alone, rather than
 * - the event emitted: the app's `listening` listeners would run too, and read the port of an address that is not there;
 * - a private socket listened on: the app could not listen by itself any more (ERR_SERVER_ALREADY_LISTEN), `close()`
 *   would call back with adopted requests in flight, and a second way in would be open;
 * - timers of our own: the moment at which a request begins is known to Node's parser alone.
 *
 * Should the app listen later, Node calls it again: it keeps the list and renews the timer.
 */
const trackers: readonly Listener[] = new Server().listeners('listening')

/**
 * Starts it. To be called before the first connection is adopted: connections register with it as they begin. The timer
 * does not keep the process alive, and ends with `server.close()`.
 *
 * @returns whether this server has it, that is, whether it speaks HTTP/1
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
