import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('SvelteKit: node build', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'sveltekit',
    args: ['build'],
    who: '/who',
    page: ['/', /Hello from \d+/],
    shutdown: 'shut down',
  }),
)
