import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('Next.js: next start', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'next',
    args: ['node_modules/next/dist/bin/next', 'start'],
    who: '/who',
    sees: 'address',
    page: ['/', /Hello from/],
  }),
)

void t.test('Next.js: a custom server', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, { app: 'next', args: ['server.cjs'], who: '/api/who', page: ['/', /Hello from/] }),
)
