import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { relayBothWays } from '../support/relay-scenes.ts'
import { startServices } from '../support/service.ts'

void t.test(
  '100 MiB each way through a relay, equal checksums, bounded memory',
  { timeout: LIMIT },
  async (t) => {
    const { web } = (await startServices(t, { web: { config: { handoff: 'off' } } })).services
    await web.start(t, 'stream-backend.mjs')
    await web.backends(1)
    await relayBothWays(t, web, 100)
  },
)
