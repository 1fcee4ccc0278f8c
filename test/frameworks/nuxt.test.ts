import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('Nuxt: node .output/server/index.mjs', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'nuxt',
    args: ['.output/server/index.mjs'],
    who: '/who',
    page: ['/', /Hello from \d+/],
    shutdown: 'shut down',
  }),
)
