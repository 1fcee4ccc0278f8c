import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

for (const [version, app] of [
  ['2', 'nitro'],
  ['3', 'nitro-3'],
] as const)
  void t.test(`Nitro ${version}: node .output/server/index.mjs`, { timeout: LIMIT }, (t) =>
    servesUnderBaton(t, { app, args: ['.output/server/index.mjs'], shutdown: 'shut down' }),
  )
