import type { FastifyInstance, RegisterOptions } from 'fastify'
import { type Backend, createBackend, type DrainOptions } from './backend.ts'
import type { BackendOptions } from './options.ts'
import { requestsOver } from './requests-over.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** This app's backend: `await app.baton.ready()` waits until it is registered, so that connections may arrive. */
    baton: Backend
  }
}

/** Options of the plugin: those of `createBackend()`, and one of its own. */
export interface BatonPluginOptions extends BackendOptions {
  /** How long `app.close()` lets connections finish before it cuts them: milliseconds, or a duration such as `"30s"`. Default: 30 s. */
  drainDeadline?: NonNullable<DrainOptions['deadline']>
}

/**
 * Attaches the app's server when the app is ready (`await app.ready()`), and drains before the app closes. `app.listen()` may
 * be called as well; clients can then connect both ways.
 *
 * `app.ready()` does not wait for a broker, so the app starts without one. The backend logs to `app.log` by default.
 */
async function baton(app: FastifyInstance, options: BatonPluginOptions & RegisterOptions): Promise<void> {
  // Fastify's own options of `register()` come in the same object.
  const {
    drainDeadline,
    prefix: _prefix,
    logLevel: _logLevel,
    logSerializers: _logSerializers,
    ...backendOptions
  } = options
  const backend = createBackend({ logger: app.log, ...backendOptions })
  app.decorate('baton', backend)
  app.addHook('onReady', async () => {
    backend.attach(app.server)
    // WebSockets end when plugins say goodbye to them, in `preClose`, as without Baton: the drain does not wait for them. They are still
    // cut at its deadline, and Fastify waits until the server has closed.
    const drain = () =>
      requestsOver(backend, backend.drain(drainDeadline === undefined ? {} : { deadline: drainDeadline }))
    // avvio's method, which Fastify's types leave out; `addHook` is no longer allowed here. The hook added last runs first.
    // Fastify's own close hook, added just before this one, answers every request with 503 from its start on, even during
    // `preClose`, so draining has to be over by then.
    Reflect.apply(Reflect.get(app, 'onClose'), app, [drain])
    // Refused (the backend has logged that), or closed by the app before there was a broker.
    backend.ready().catch((error: unknown) => app.log.debug({ err: error }, 'baton: not registered'))
  })
}

/** The plugin: `await app.register(baton, { service: 'web' })`. */
export default Object.assign(baton, {
  // As fastify-plugin sets it, so that the registering instance itself gets the decorator, not a child of it.
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: '@baton/backend-sdk',
})
