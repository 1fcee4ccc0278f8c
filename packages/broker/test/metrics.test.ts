import { readFileSync } from 'node:fs'

import t from 'tap'

import { Counters } from '../src/master/workers/counters.ts'
import {
  FAILURE_REASONS,
  FALLBACK_ACTIONS,
  FALLBACK_REASONS,
  OUTCOMES,
  UNROUTED_REASONS,
} from '../src/metrics/labels.ts'
import { Metrics } from '../src/metrics/metrics.ts'
import { oneAtATime } from '../src/metrics/one-at-a-time.ts'
import { eventually } from '../../../test/support/eventually.ts'

const fresh = () => new Metrics({ version: '1.2.3', listeners: ['http'], services: ['web', 'api'] })

/** The samples of one metric: `{labels}` to value, as printed. */
async function samples(metrics: Metrics, name: string): Promise<Record<string, number>> {
  const lines = (await metrics.text()).split('\n').filter((line) => line.startsWith(`${name}{`))
  return Object.fromEntries(
    lines.map((line) => [
      line.slice(name.length, line.lastIndexOf(' ')),
      Number(line.slice(line.lastIndexOf(' '))),
    ]),
  )
}

void t.test('known series exist from the start, with 0', async (t) => {
  const metrics = fresh()
  t.same(await samples(metrics, 'baton_connections_accepted_total'), { '{listener="http"}': 0 })
  // `lost` is counted by the master alone, and began with its first loss: rate() missed that.
  const outcomes = [...OUTCOMES, 'lost'].flatMap((outcome) =>
    ['web', 'api'].map((service) => [`{service="${service}",outcome="${outcome}"}`, 0]),
  )
  t.same(await samples(metrics, 'baton_connections_total'), Object.fromEntries(outcomes))
  const reasons = [...UNROUTED_REASONS, 'lost'].map((reason) => [`{listener="http",reason="${reason}"}`, 0])
  t.same(await samples(metrics, 'baton_connections_unrouted_total'), Object.fromEntries(reasons))
  t.equal(
    Object.keys(await samples(metrics, 'baton_handoff_failures_total')).length,
    2 * FAILURE_REASONS.length,
  )
  const steps = 2 * FALLBACK_ACTIONS.length * FALLBACK_REASONS.length
  t.equal(Object.keys(await samples(metrics, 'baton_fallbacks_total')).length, steps)
  const states = ['ready', 'starting', 'draining', 'unresponsive', 'unhealthy', 'paused']
  const zeros = ['web', 'api'].flatMap((service) =>
    states.map((state) => [`{service="${service}",state="${state}"}`, 0]),
  )
  t.same(await samples(metrics, 'baton_backends'), Object.fromEntries(zeros))
  t.same(await samples(metrics, 'baton_handoff_duration_seconds_count'), {
    '{service="web"}': 0,
    '{service="api"}': 0,
  })
  t.same(await samples(metrics, 'baton_build_info'), { '{version="1.2.3"}': 1 })
})

void t.test('counting, observing, and forgetting a backend', async (t) => {
  const metrics = fresh()
  metrics.connections.inc({ service: 'web', outcome: 'handed_off' })
  metrics.connections.inc({ service: 'web', outcome: 'handed_off' }, 4)
  t.equal((await samples(metrics, 'baton_connections_total'))['{service="web",outcome="handed_off"}'], 5)

  metrics.connectionsHeld.set({ service: 'web' }, 7)
  metrics.connectionsHeld.inc({ service: 'web' })
  metrics.connectionsHeld.dec({ service: 'web' }, 3)
  t.equal((await samples(metrics, 'baton_connections_held'))['{service="web"}'], 5)

  metrics.handoffDuration.observe({ service: 'web' }, 0.000_04)
  metrics.handoffDuration.observe({ service: 'web' }, 30)
  const buckets = await samples(metrics, 'baton_handoff_duration_seconds_bucket')
  t.equal(buckets['{le="0.00005",service="web"}'], 1)
  t.equal(buckets['{le="10",service="web"}'], 1)
  t.equal(buckets['{le="+Inf",service="web"}'], 2)

  metrics.backendConnections.set({ service: 'web', backend: 'web-1' }, 3)
  metrics.backendConnections.set({ service: 'web', backend: 'web-2' }, 4)
  metrics.removeBackend('web', 'web-1')
  t.same(await samples(metrics, 'baton_backend_connections'), { '{service="web",backend="web-2"}': 4 })
})

void t.test('each instance has its own metrics registry', async (t) => {
  const [one, other] = [fresh(), fresh()]
  one.connectionsAccepted.inc({ listener: 'http' })
  t.same(await samples(other, 'baton_connections_accepted_total'), { '{listener="http"}': 0 })
})

void t.test(
  'docs/reference/metrics.md and the registry have the same metrics, types and labels',
  async (t) => {
    const page = readFileSync(new URL('../../../docs/reference/metrics.md', import.meta.url), 'utf8')
    const documented = [...page.matchAll(/^\| `([a-z_0-9]+)` \| (\w+) \|([^|]*)\| /gm)].map(
      ([, name, type, labels]) => ({
        name,
        type,
        labels: [...(labels ?? '').matchAll(/`(\w+)`/g)].map(([, label]) => label),
      }),
    )
    const metrics = fresh()
    metrics.backendConnections.set({ service: 'web', backend: 'web-1' }, 0)
    const counters = new Counters()
    counters.shifted('web', undefined, { to: '2.0', share: 1000 })
    counters.replaced('web')
    const text = await metrics.text(await counters.snapshots())
    const registered = new Map(
      [...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name, type]) => [name, type]),
    )
    t.equal(documented.length, registered.size)
    t.same(new Set(documented.map(({ name }) => name)), new Set(registered.keys()))
    for (const { name = '', type, labels } of documented) {
      t.equal(type, registered.get(name), `type of ${name}`)
      if (!name.startsWith('baton_')) continue
      const sample = new RegExp(`^${name}(?:_count)?\\{(.*)\\} `, 'm').exec(text)?.[1] ?? ''
      t.same(
        [...sample.matchAll(/(\w+)="/g)].map(([, label]) => label),
        labels,
        `labels of ${name}`,
      )
    }
    t.match(text, /^# HELP baton_/m)
    t.notMatch(text, /^# TYPE \S+_total gauge$/m, 'promtool refuses a gauge with the name of a counter')
    t.match(metrics.contentType, 'text/plain; version=0.0.4')
  },
)

// While a new master replaced the worker that it had taken over, and in each reload, the series of replacements were absent: rate() missed the first.
void t.test('series of known services exist from the beginning, with what was counted before', async (t) => {
  const before = new Counters()
  before.replaced('web', 'memory', 'failure')
  const counters = new Counters(before.state, undefined, ['web', 'api'])
  const text = await fresh().text(await counters.snapshots())
  const series = /^baton_backend_replacements_total\{service="(\w+)",reason="(\w+)",result="(\w+)"\} (\d+)$/gm
  t.same(
    [...text.matchAll(series)].map((found) => found.slice(1).join(' ')),
    [
      'web memory success 0',
      'web memory failure 1',
      'web schedule success 0',
      'web schedule failure 0',
      'api memory success 0',
      'api memory failure 0',
      'api schedule success 0',
      'api schedule failure 0',
    ],
  )
})

void t.test('concurrent scrapes are rendered once, after the last request', async (t) => {
  const runs: { started: number; finish: (error?: Error) => void }[] = []
  let asked = 0
  const render = oneAtATime(
    () =>
      new Promise<number>((resolve, reject) => {
        const started = asked
        runs.push({ started, finish: (error) => (error ? reject(error) : resolve(started)) })
      }),
  )
  const ask = () => ((asked += 1), render())
  const first = [ask(), ask(), ask()]
  await eventually(() => runs.length === 1, 'the first run')
  const second = [ask(), ask()]
  runs[0]?.finish(new Error('failed'))
  for (const each of first) await t.rejects(each, /failed/)
  await eventually(() => runs.length === 2, 'the second run, after a failed one')
  runs[1]?.finish()
  t.same(await Promise.all(second), [5, 5], 'began when all five had asked')
  t.equal(runs.length, 2)
})
