import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('Astro: the standalone server of @astrojs/node', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'astro',
    args: ['./dist/server/entry.mjs'],
    who: '/who',
    sees: 'address',
    page: ['/', /Hello from \d+/],
  }),
)
