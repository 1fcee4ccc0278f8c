import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('React Router: react-router-serve', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'react-router',
    args: ['node_modules/@react-router/serve/bin.cjs', './build/server/index.js'],
    who: '/who',
    sees: 'nothing',
    page: ['/', /Hello from/],
  }),
)
