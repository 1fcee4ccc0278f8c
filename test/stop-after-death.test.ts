import t from 'tap'
import { startBackend } from './support/backend.ts'
import { type Status, startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { askAdmin, logged, onlyWorker } from './support/operator.ts'
import { signal } from './support/signal.ts'

void t.test(
  'a stop right after the death of a worker is seen in the admin API',
  { timeout: LIMIT },
  async (t) => {
    // The next worker loads its admin server once the backends are back, or after half a second. A stop in between left the drain without one.
    const broker = await startBroker(t, {
      config: { drainDeadline: '10m', services: { web: { holdTimeout: '30m' } } },
    })
    const backend = await startBackend(t, broker)
    await broker.backends(1)
    const worker = await onlyWorker(t, broker)
    signal(backend.pid, 'SIGSTOP')
    signal(worker, 'SIGKILL')
    await eventually(() => logged(broker, 'accepting connections') === 2, 'another worker accepts')
    const held = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
    held.send('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    signal(broker.program.pid, 'SIGTERM')
    await eventually(() => logged(broker, 'draining') > 0, 'the stop')
    const [code, body] = await askAdmin(broker, '/api/v1/status')
    t.equal(code, 200)
    t.match(JSON.parse(body) as Status, { broker: { state: 'draining' } })
    held.socket.resetAndDestroy()
    t.match(await broker.program.exited, { code: 0 })
    signal(backend.pid, 'SIGCONT')
  },
)
