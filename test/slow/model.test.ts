import { spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { root } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'
import { modelRules } from '../support/model-rules.ts'

/** One line of `check.mjs --json`. */
interface Result {
  readonly name: string
  readonly expected: string
  readonly verdict: string
  readonly states: number
  /** The steps of all processes up to the failure. */
  readonly steps: readonly string[]
}

const tools = ['spin', 'gcc'].filter((tool) => spawnSync(tool, ['--version']).error !== undefined)
const missing = tools.length === 0 ? false : `${tools.join(' and ')} not installed`

async function check(): Promise<readonly Result[]> {
  const script = join(root, 'docs/internals/model/check.mjs')
  const child = spawn(process.execPath, [script, '--quick', '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => child.kill())
  return JSON.parse(await text(child.stdout)) as Result[]
}

void t.test('the model checker is installed where it is required', (test) => {
  if (process.env['CI']) test.equal(missing, false, 'CI installs spin and gcc')
  test.end()
})

void t.test(
  'the models of the handoff and of handing back',
  { skip: missing, timeout: 2 * LIMIT },
  async (test) => {
    const results = await check()
    test.ok(results.length > 0)
    for (const { name, expected, verdict, states, steps } of results) {
      test.equal(verdict, expected, `${name}: ${expected}`, {
        states,
        steps,
      })
    }

    const holding = results.filter(({ verdict }) => verdict === 'holds')
    test.ok(
      holding.every(({ states }) => states > 10_000),
      'a search that finds nothing has seen something',
    )
    const owners = results.filter(({ verdict }) => verdict === 'two owners')
    test.equal(owners.length, 10, 'ten rules stand between a client and its second owner')
    for (const { name, steps } of owners) {
      const touching = steps
        .filter((step) => /^backend \d reads and writes client \d$/.test(step))
        .map((step) => step.split(' reads')[0])
      test.strictSame(
        new Set(touching),
        new Set(['backend 0', 'backend 1']),
        `${name}: the two owners are two backends`,
      )
    }

    // LANE_EOF is redundant protection: the model is expected to hold without it.
    const tried = new Set(results.map(({ name }) => name))
    for (const { name } of modelRules()) test.ok(tried.has(`without ${name}`), `${name} is taken out once`)
  },
)
