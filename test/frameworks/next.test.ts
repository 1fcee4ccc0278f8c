import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

for (const [version, app] of [
  ['16', 'next'],
  ['15', 'next-15'],
] as const) {
  void t.test(`Next.js ${version}: next start`, { timeout: LIMIT }, (t) =>
    servesUnderBaton(t, {
      app,
      args: ['node_modules/next/dist/bin/next', 'start'],
      who: '/who',
      sees: 'address',
      page: ['/', /Hello from/],
    }),
  )

  void t.test(`Next.js ${version}: a custom server`, { timeout: LIMIT }, (t) =>
    servesUnderBaton(t, { app, args: ['server.cjs'], who: '/api/who', page: ['/', /Hello from/] }),
  )
}
