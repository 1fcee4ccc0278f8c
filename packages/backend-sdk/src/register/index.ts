/**
 * Preload for unmodified apps: `node --import @baton/backend-sdk/register server.js`. When the app listens on a TCP port, Baton's
 * master opens that port instead, and the app's server gets its connections from the broker.
 *
 * It replaces one public member, `net.Server.prototype.listen`, which `http`, `https`, `http2`, `tls` and all frameworks use, and
 * only if BATON_MASTER_SOCKET is set. The app's child processes load it too, because they inherit NODE_OPTIONS. Most of them never
 * listen, so before the first `listen()` it loads only the watch that ends a process when its master dies.
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
    // Loads the rest of the SDK and its dependencies.
    void import('./serve.ts').then(
      ({ serve }) => serve(starting, masterSocket),
      (error: unknown) => starting.fail(error as Error),
    )
    return this
  }

  net.Server.prototype.listen = listen as typeof net.Server.prototype.listen
}

/** Node's own error. */
function alreadyListening(): Error {
  return Object.assign(new Error('Listen method has been called more than once without closing.'), {
    code: 'ERR_SERVER_ALREADY_LISTEN',
  })
}
