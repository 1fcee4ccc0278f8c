import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { askAdmin, onlyWorker, openSession } from './support/operator.ts'
import { exists, signal } from './support/signal.ts'

// The admin server of a worker that leaves. It accepted until it was told to finish, which a busy one reads long after the reload has been answered: a `drain`
// got the deadline of the configuration before, from a worker without backends.
void t.test(
  'a request after the backends have moved is for the worker that they have moved to',
  { timeout: LIMIT },
  async (t) => {
    const broker = await startBroker(t, { config: { workerTimeout: '5m' } })
    const old = await onlyWorker(t, broker)
    await startBackend(t, broker)
    // The reload waits two seconds for it: time to stop both workers.
    const stuck = await startBackend(t, broker)
    await broker.backends(2)
    stuck.kill('SIGSTOP')
    const session = await openSession(t, broker)
    session.send('reload\n')
    const registered = () =>
      broker.program.messages().find(({ pid, msg }) => msg === 'backend registered' && pid !== old)
    await eventually(() => registered() !== undefined, 'a backend is with the successor')
    const successor = Number(registered()?.['pid'])
    signal(successor, 'SIGSTOP')
    // The old worker has no more backends to give away, and is not told to finish yet.
    const answer = askAdmin(broker, '/api/v1/status')
    await eventually(() => !exists(old), 'the old worker has finished')
    signal(successor, 'SIGCONT')
    const [code, body] = await answer
    t.equal(code, 200)
    t.match(JSON.parse(body), { broker: { pid: successor } })
    stuck.kill('SIGKILL')
  },
)
