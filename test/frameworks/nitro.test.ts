import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { servesUnderBaton } from '../support/framework-app.ts'

void t.test('Nitro: node .output/server/index.mjs', { timeout: LIMIT }, (t) =>
  servesUnderBaton(t, { app: 'nitro', args: ['.output/server/index.mjs'], shutdown: 'shut down' }),
)
