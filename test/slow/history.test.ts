import t from 'tap'
import { type Broker, startBroker } from '../support/broker.ts'
import { Chromium } from '../support/chromium.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { askAdmin, onlyWorker, reload } from '../support/operator.ts'
import { signal } from '../support/signal.ts'

// The last 15 minutes, which the status page draws when it is opened, outlive reloads and the death of a worker.

interface Answer {
  readonly intervalMs: number
  readonly services: Record<string, { at: number; handoffs: number }[]>
}

async function pointsOf(broker: Broker): Promise<number[]> {
  const [status, body] = await askAdmin(broker, '/api/v1/history')
  if (status !== 200) throw new Error(body)
  return (JSON.parse(body) as Answer).services['web']?.map(({ at }) => at) ?? []
}

void t.test('the history continues over a reload and a death', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
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
