import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { freePort } from '../support/free-port.ts'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { read } from '../support/markdown.ts'
import { say } from '../support/operator.ts'
import { cleanEnvironment, Program, root, temporaryFolder } from '../support/process.ts'
import { selectorsOf } from '../support/promql.ts'
import { LIMIT } from '../support/limits.ts'

// The files in examples/prometheus, with Prometheus' own tools and a real Prometheus, against a real broker.

const folder = join(root, 'examples/prometheus')
const example = (file: string) => readFileSync(join(folder, file), 'utf8')

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: { readonly severity: string }
  readonly annotations: Readonly<Record<string, string>>
}
const rules = (parse(example('alerts.yml')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
)

interface Target {
  readonly refId: string
  readonly expr: string
  readonly datasource: unknown
}
interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly targets?: readonly Target[]
}
interface Dashboard {
  readonly uid: string
  readonly title: string
  readonly schemaVersion: number
  readonly panels: readonly Panel[]
  readonly annotations: { readonly list: readonly { readonly expr: string }[] }
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly type: string; readonly query: unknown }[]
  }
}
const dashboard = JSON.parse(example('dashboard.json')) as Dashboard

/** Replaces the dashboard's variables as Grafana does when everything is selected. */
function filled(expression: string): string {
  return expression.replaceAll('$__rate_interval', '1m').replaceAll(/\$(?:job|instance|service)\b/g, '.*')
}

const expressions = [
  ...rules.map(({ alert, expr }) => ({ from: alert, expr })),
  ...dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ from: title, expr: filled(expr) })),
  ),
  ...dashboard.annotations.list.map(({ expr }) => ({ from: 'annotation', expr: filled(expr) })),
]

/** Prometheus' own metric about each scrape. */
const OF_PROMETHEUS = 'up'

const missing =
  spawnSync('promtool', ['--version']).error !== undefined && !process.env['CI']
    ? { skip: 'prometheus is not installed' }
    : {}

async function promtool(...args: string[]): Promise<{ code: number; said: string }> {
  const child = spawn('promtool', args, { cwd: folder, env: cleanEnvironment() })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += String(chunk)))
  const [code] = (await once(child, 'close')) as [number]
  return { code, said }
}

void t.test('promtool: the rules are valid, and fire when they should', missing, async (t) => {
  for (const args of [
    ['check', 'rules', '--lint=all', '--lint-fatal', 'alerts.yml'],
    ['check', 'config', 'prometheus.yml'],
    ['test', 'rules', 'alerts.test.yml'],
  ]) {
    const { code, said } = await promtool(...args)
    t.equal(code, 0, `promtool ${args.join(' ')}: ${said}`)
  }
})

void t.test('every alert fires in one test, does not fire in another, and is in the docs', async (t) => {
  interface Case {
    readonly alertname: string
    readonly exp_alerts: readonly unknown[]
  }
  const { tests } = parse(example('alerts.test.yml')) as { tests: { alert_rule_test: Case[] }[] }
  const cases = tests.flatMap((each) => each.alert_rule_test)
  for (const { alert, labels, annotations } of rules) {
    const own = cases.filter(({ alertname }) => alertname === alert)
    t.ok(
      own.some((each) => each.exp_alerts.length > 0),
      `${alert} fires`,
    )
    t.ok(
      own.some((each) => each.exp_alerts.length === 0),
      `${alert} does not`,
    )
    t.match(labels.severity, /^(critical|warning)$/)
    t.match(Object.keys(annotations), ['summary', 'description'])
  }
  const documented = [...read('docs/how-to/alerts.md').matchAll(/^\| `(Baton\w+)` \|/gm)].map(
    ([, name]) => name,
  )
  t.same(
    documented,
    rules.map(({ alert }) => alert),
  )
})

void t.test('the dashboard can be imported, and uses what it declares', async (t) => {
  t.match(dashboard, { uid: 'baton', title: 'Baton' })
  t.notOk('id' in dashboard, 'Grafana gives one')
  const variables = new Set(dashboard.templating.list.map(({ name }) => name))
  t.match(dashboard.templating.list[0], { name: 'datasource', type: 'datasource', query: 'prometheus' })
  const { panels } = dashboard
  t.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
  for (const [index, panel] of panels.entries()) {
    const { title, description = '', type, targets = [], gridPos } = panel
    if (type !== 'row') t.match(description, /\.$/, `${title}: its description`)
    t.ok(gridPos.x + gridPos.w <= 24, `${title}: within the page`)
    for (const other of panels.slice(index + 1))
      t.notOk(overlap(gridPos, other.gridPos), `${title}, ${other.title}`)
    t.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length)
  }
  const text = example('dashboard.json')
  for (const [, name = ''] of text.matchAll(/"uid": "(?!baton")([^"]*)"/g)) t.equal(name, '${datasource}')
  for (const [, name = ''] of text.matchAll(/\$\{?(\w+)/g))
    t.ok(variables.has(name) || ['__rate_interval', '__all'].includes(name), name)
})

type Place = Panel['gridPos']

function overlap(a: Place, b: Place): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h
}

void t.test('selectors of an expression', async (t) => {
  const found = selectorsOf(
    'histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{b="c d{}",e=~"f|g"}[5m]))) > 1e3 and on (job) count (i) or 2 * j',
  )
  t.same(
    found.map(({ selector }) => selector),
    ['a_bucket{b="c d{}",e=~"f|g"}', 'i', 'j'],
  )
})

void t.test('with a real broker', { timeout: LIMIT, ...missing }, async (t) => {
  const broker = await startBroker(t)
  const backend = await startBackend(t, broker)
  t.equal((await fetch(broker.url(), { headers: { connection: 'close' } })).status, 200)
  // Its series exists only while a share of the connections is shifted.
  t.match(await say(t, broker, 'shift web to=2.0 share=10%'), /^Success=1$/m)
  const exposition = await broker.metrics()

  await t.test('every metric has a help text of its own', async (t) => {
    const types = new Map(
      [...exposition.matchAll(/^# TYPE (\S+) (\w+)$/gm)].map(([, name, type]) => [name, type]),
    )
    const helps = new Map(
      [...exposition.matchAll(/^# HELP (\S+) (.+)$/gm)].map(([, name, help]) => [name, help]),
    )
    t.ok(types.size > 40)
    t.same([...helps.keys()], [...types.keys()])
    const own = [...helps].filter(([name = '']) => name.startsWith('baton_'))
    t.equal(new Set(own.map(([, help]) => help)).size, own.length)
    for (const [name = '', help] of own) t.match(help, /^[A-Z].{10,}\.$/, name)
    for (const [name = '', type] of types) {
      t.equal(name.endsWith('_total'), type === 'counter', `${name}: counters, and only they, end in _total`)
      if (type === 'histogram') t.match(name, /_seconds$/)
    }
  })

  await t.test(
    'every metric in the rules, in their tests and in the dashboard exists in the broker',
    async (t) => {
      const names = new Set([...exposition.matchAll(/^([a-z]\w*)[{ ]/gm)].map(([, name]) => name))
      const used = expressions.flatMap(({ from, expr }) =>
        selectorsOf(expr).map(({ name }) => ({ from, name })),
      )
      t.ok(used.length > 60, `${used.length}`)
      const inputs = [...example('alerts.test.yml').matchAll(/series: '(\w+)/g)].map(([, name = '']) => ({
        from: 'alerts.test.yml',
        name,
      }))
      const variables = dashboard.templating.list.flatMap(({ name: from, query }) =>
        [...JSON.stringify(query).matchAll(/label_values\((\w+)/g)].map(([, name = '']) => ({ from, name })),
      )
      t.equal(variables.length, 3)
      for (const { from, name } of [...used, ...inputs, ...variables])
        t.ok(names.has(name) || name === OF_PROMETHEUS, `${from}: ${name}`)
      const shown = new Set(used.map(({ name }) => name.replace(/_(bucket|sum|count)$/, '')))
      const all = [...exposition.matchAll(/^# TYPE (baton_\w+) /gm)].map(([, name = '']) => name)
      t.same(
        all.filter((name) => !shown.has(name)),
        [],
        'and every metric of Baton is on it',
      )
    },
  )

  await t.test('Prometheus scrapes it and answers every expression', async (t) => {
    const prometheus = await startPrometheus(t, broker)
    const ask = async (query: string) => {
      const answer = await fetch(`${prometheus}/api/v1/query?query=${encodeURIComponent(query)}`)
      return (await answer.json()) as { status: string; error?: string; data: { result: unknown[] } }
    }
    await eventually(
      async () => (await ask('count_over_time(baton_build_info[1m]) >= 2')).data.result.length === 1,
      'two scrapes',
    )
    for (const { from, expr } of expressions) {
      const { status, error } = await ask(expr)
      t.equal(status, 'success', `${from}: ${expr}: ${error}`)
    }
    // Label values too: series exist from the start, with 0.
    const selectors = new Set(
      expressions.flatMap(({ expr }) => selectorsOf(expr).map(({ selector }) => selector)),
    )
    for (const selector of selectors) t.not((await ask(selector)).data.result.length, 0, selector)
    // Not every panel has data on a quiet broker, but these always do.
    for (const { title, type, targets = [] } of dashboard.panels.filter(
      ({ type: each }) => each === 'stat',
    )) {
      if (title === 'Last reload') continue
      const { data } = await ask(filled(targets[0]?.expr ?? ''))
      t.equal(data.result.length, 1, `${type} ${title}`)
    }

    backend.kill('SIGKILL')
    interface Alerting {
      readonly name: string
      readonly state: string
      readonly health: string
      readonly lastError?: string
    }
    const evaluated = async () => {
      const answer = await fetch(`${prometheus}/api/v1/rules`)
      const { data } = (await answer.json()) as { data: { groups: { rules: Alerting[] }[] } }
      return data.groups.flatMap((group) => group.rules)
    }
    await eventually(
      async () =>
        (await evaluated()).some(({ name, state }) => name === 'BatonNoReadyBackend' && state === 'pending'),
      'the only backend is gone, which is on its way to an alert',
    )
    const all = await evaluated()
    t.equal(all.length, rules.length)
    // On a busy machine the event loop does lag.
    const pending = ['BatonNoReadyBackend', 'BatonEventLoopLag']
    for (const { name, health, state, lastError } of all) {
      t.equal(health, 'ok', `${name}: ${lastError}`)
      if (!pending.includes(name)) t.equal(state, 'inactive', name)
    }
  })
})

/** The configuration that a user would copy, with another target, and with seconds instead of quarters of a minute. */
async function startPrometheus(t: Test, broker: Broker): Promise<string> {
  const own = temporaryFolder(t)
  const config = example('prometheus.yml')
    .replace('127.0.0.1:9180', new URL(broker.admin).host)
    .replaceAll('_interval: 15s', '_interval: 1s')
  writeFileSync(join(own, 'prometheus.yml'), config)
  cpSync(join(folder, 'alerts.yml'), join(own, 'alerts.yml'))
  const port = await freePort()
  const program = new Program(t, 'prometheus', [
    `--config.file=${own}/prometheus.yml`,
    `--storage.tsdb.path=${own}/data`,
    `--web.listen-address=127.0.0.1:${port}`,
  ])
  await program.line((line) => line.includes('Server is ready to receive web requests'), 'that it is ready')
  return `http://127.0.0.1:${port}`
}
