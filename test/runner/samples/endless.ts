// A test file with a broker and a managed backend that never ends.
import t from 'tap'
import { startBroker } from '../../support/broker.ts'
import { root } from '../../support/process.ts'

void t.test('waits for what never comes', async (t) => {
  const command = [process.execPath, 'test/programs/http-backend.mjs']
  const broker = await startBroker(t, { config: { services: { web: { command, cwd: root } } } })
  await broker.backends(1)
  process.stderr.write(`running below ${broker.folder}\n`)
  await new Promise(() => setInterval(() => {}, 1000))
})
