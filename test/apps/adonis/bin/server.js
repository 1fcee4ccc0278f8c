// https://docs.adonisjs.com/guides/concepts/application-lifecycle
// oxlint-disable-next-line import/no-unassigned-import
import 'reflect-metadata'
import { Ignitor } from '@adonisjs/core'

const APP_ROOT = new URL('../', import.meta.url)

await new Ignitor(APP_ROOT, { importer: (path) => import(new URL(path, APP_ROOT).href) })
  .tap((app) => {
    app.listen('SIGTERM', () => app.terminate())
    app.terminating(() => console.log('shut down'))
  })
  .httpServer()
  .start()
