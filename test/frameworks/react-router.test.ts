import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

const app = {
  app: 'react-router',
  args: ['node_modules/@react-router/serve/bin.cjs', './build/server/index.js'],
  who: '/who',
  sees: 'nothing',
  page: ['/', /Hello from/],
} as const

void t.test('React Router: react-router-serve', { timeout: LIMIT }, (t) => servesUnderBaton(t, app))

void t.test(
  'React Router, without PORT: it opens a server to see whether its port is free',
  { timeout: LIMIT },
  (t) => servesUnderBaton(t, { ...app, defaultPort: true }),
)
