import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('AdonisJS: node bin/server.js', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, {
    app: 'adonis',
    args: ['bin/server.js'],
    env: { HOST: '0.0.0.0', APP_KEY: 'only-for-the-tests-of-this-repository', LOG_LEVEL: 'info' },
    shutdown: 'shut down',
  }),
)
