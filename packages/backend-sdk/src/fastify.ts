import type { FastifyInstance } from 'fastify'
import { type Backend, createBackend, type DrainOptions } from './backend.ts'
import type { BackendOptions } from './options.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** What `createBackend()` made for this app: `await app.baton.ready()` waits until the broker sends connections. */
    baton: Backend
  }
}

export interface BatonPluginOptions extends BackendOptions {
  /** How long `app.close()` lets connections finish before it cuts them: milliseconds or `"30s"`. Default: 30 s. */
  drainDeadline?: NonNullable<DrainOptions['deadline']>
}

/**
 * Gives the app's server to Baton when the app is ready (`await app.ready()`; `app.listen()` may still be called, and
 * then both ways in are open) and drains before the app closes.
 *
 * Being ready does not wait for a broker, so that an app starts without one. The backend's log goes to `app.log`.
 */
async function baton(app: FastifyInstance, options: BatonPluginOptions): Promise<void> {
  const { drainDeadline, ...backendOptions } = options
  const backend = createBackend({ logger: app.log, ...backendOptions })
  app.decorate('baton', backend)
  app.addHook('onReady', async () => {
    backend.attach(app.server)
    const drain = () => backend.drain(drainDeadline === undefined ? {} : { deadline: drainDeadline })
    // avvio's own method, which Fastify's types leave out (`addHook` is closed by now): the newest close hook runs first.
    // Fastify's, added just before this moment, answers 503 to every request from its start on, even in `preClose`, so
    // draining has to be over by then.
    Reflect.apply(Reflect.get(app, 'onClose'), app, [drain])
    // Refused, or closed before a broker came: the backend logs the one, and the other is as the app asked.
    backend.ready().catch((error: unknown) => app.log.debug({ err: error }, 'baton: not registered'))
  })
}

/** The plugin: `await app.register(baton, { service: 'web' })`. */
export default Object.assign(baton, {
  // What fastify-plugin sets: the decorator is for the instance that registers, not for a child of it.
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: '@baton/backend-sdk',
})
