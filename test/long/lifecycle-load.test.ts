import t from 'tap'
import { LIMIT, starts } from '../support/limits.ts'
import { killUnderLoad, stopUnderLoad } from '../support/load-scenes.ts'
import type { Program } from '../support/process.ts'
import { type Service, startServices } from '../support/service.ts'

// The load scenes of `test/lifecycle.test.ts`, with as much load as two processors can take.

const ACK_DEADLINE = starts(0.1)
const STOPPED = { ackDeadline: ACK_DEADLINE, tokenTtl: 2 * ACK_DEADLINE, balance: 'round-robin' }

void t.test('a backend at SIGKILL takes only its own clients with it', { timeout: LIMIT }, async (test) => {
  const { web } = (await startServices(test, { web: {} })).services
  await killUnderLoad(test, web, await pair(web), 6000)
})

void t.test('a backend that is stopped under load loses no clients', { timeout: LIMIT }, async (test) => {
  const { web } = (await startServices(test, { web: { config: STOPPED } })).services
  await stopUnderLoad(test, web, await pair(web), { fresh: 48, pause: 0, apart: 1500 })
})

async function pair(service: Service): Promise<[Program, Program]> {
  const both: [Program, Program] = [await service.start(t), await service.start(t)]
  await service.backends(2)
  return both
}
