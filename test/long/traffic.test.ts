import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { startServices } from '../support/service.ts'
import { passBothWays } from '../support/traffic-scenes.ts'

void t.test('a GiB each way past the broker arrives intact', { timeout: LIMIT }, async (t) => {
  const { web } = (await startServices(t, { web: {} })).services
  await passBothWays(t, web, await web.start(t, 'stream-backend.mjs'), 1024, 448)
})
