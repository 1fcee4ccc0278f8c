/**
 * Preload for apps that know nothing of Baton: `node --import @baton/backend-sdk/register server.js`. Where the app listens on
 * a TCP port, the port is opened by Baton's master instead, and the app's server gets its connections from the broker.
 *
 * It changes one public member, `net.Server.prototype.listen`, which `http`, `https`, `http2`, `tls` and the frameworks above
 * them all go through, and only where BATON_MASTER_SOCKET names the master. It comes into each child process of the app
 * as well (NODE_OPTIONS is inherited), most of which never listen: before the first `listen()` nothing is loaded but the watch that
 * ends them with the master.
 */
import net from 'node:net'
import { watchFromStart } from '../orphan.ts'
import { isClustered } from './cluster.ts'
import { Starting } from './starting.ts'
import { listenTarget } from './target.ts'

const { BATON_MASTER_SOCKET: master } = process.env
watchFromStart()
if (master !== undefined && master !== '') install(master)

function install(masterSocket: string): void {
  const original = Reflect.get(net.Server.prototype, 'listen') as (...args: unknown[]) => net.Server
  const taken = new WeakSet<net.Server>()

  function listen(this: net.Server, ...args: unknown[]): net.Server {
    if (taken.has(this)) throw alreadyListening()
    const target = listenTarget(args)
    if (target === undefined || this.listening || isClustered()) return Reflect.apply(original, this, args)
    const site: { stack?: unknown } = {}
    Error.captureStackTrace(site, listen)
    const starting = new Starting(this, target, () => taken.delete(this), site.stack)
    taken.add(this)
    // The rest of the SDK, and what it needs.
    void import('./serve.ts').then(
      ({ serve }) => serve(starting, masterSocket),
      (error: unknown) => starting.fail(error as Error),
    )
    return this
  }

  net.Server.prototype.listen = listen as typeof net.Server.prototype.listen
}

/** As Node says it. */
function alreadyListening(): Error {
  return Object.assign(new Error('Listen method has been called more than once without closing.'), {
    code: 'ERR_SERVER_ALREADY_LISTEN',
  })
}
