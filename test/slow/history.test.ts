import t from 'tap'
import { type Broker, startBroker } from '../support/broker.ts'
import { Chromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { askAdmin, onlyWorker, reload } from '../support/operator.ts'
import { signal } from '../support/signal.ts'
import { startAgain } from '../support/visitor.ts'

// The last 15 minutes, which the status page draws when it is opened, outlive reloads, the death of a worker, and that of the master.

interface Answer {
  readonly intervalMs: number
  readonly services: Record<string, { at: number; handoffs: number }[]>
}

async function pointsOf(broker: Broker): Promise<number[]> {
  const [status, body] = await askAdmin(broker, '/api/v1/history')
  if (status !== 200) throw new Error(body)
  return (JSON.parse(body) as Answer).services['web']?.map(({ at }) => at) ?? []
}

void t.test('the history continues over a reload and both deaths', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { admin: { listen: `127.0.0.1:${await freePort()}` } } })
  let first: number[] = []
  await eventually(async () => (first = await pointsOf(broker)).length > 1, 'two points')
  t.match(await reload(t, broker), { success: true })
  const worker = await onlyWorker(t, broker)
  let second: number[] = []
  await eventually(async () => (second = await pointsOf(broker)).length > first.length, 'one more')
  t.same(second.slice(0, first.length), first)
  signal(worker, 'SIGKILL')
  await eventually(async () => (await onlyWorker(t, broker)) !== worker, 'another worker')
  let third: number[] = []
  await eventually(
    async () => (third = await pointsOf(broker).catch(() => [])).length >= second.length,
    'all of it',
  )
  t.same(third.slice(0, second.length), second)

  // The next master replaces the worker that it takes over.
  const last = await onlyWorker(t, broker)
  broker.program.kill('SIGKILL')
  await broker.until((status) => status.broker.master === null, 'the worker has noticed')
  const next = startAgain(t, broker)
  await next.message('took over the worker of a master that was killed')
  await eventually(async () => {
    const [status, body] = await askAdmin(broker, '/api/v1/status').catch(() => [0, ''] as const)
    return status === 200 && (JSON.parse(body) as { broker: { pid: number } }).broker.pid !== last
  }, 'its own worker')
  let fourth: number[] = []
  await eventually(
    async () => (fourth = await pointsOf(broker).catch(() => [])).length >= third.length,
    'all of it',
  )
  t.same(fourth.slice(0, third.length), third)

  const tab = await (await Chromium.start(t)).open()
  await tab.goto(broker.admin)
  const path = `document.querySelector('.chart path.line').getAttribute('d')`
  await tab.until(`(${path} ?? '').split('L').length >= ${second.length}`)
  t.match(
    await tab.evaluate(`document.querySelector('.chart svg').getAttribute('aria-label')`),
    /last 15 minutes/,
  )
  t.same(tab.complaints, [])
})
