import t from 'tap'
import { type Outcome, runSchedule, type Sabotage } from './simulation/schedule.ts'
import { LIMIT, starts } from '../../../test/support/limits.ts'

/**
 * The real service, links, ledgers and sessions on a simulated kernel: seeded schedules stop processes at their
 * system calls, kill, freeze, drain and starve them and make them lie, and every invariant is checked after each step.
 *
 *     SEEDS=20000 npm test -- packages/broker/test/simulation.test.ts    more schedules (test/long/repetitions.test.ts)
 *     SEED=162 npm test -- packages/broker/test/simulation.test.ts       one of them, with all its steps
 */
const SEEDS = Number(process.env['SEEDS'] ?? 150)
const SEED = process.env['SEED'] === undefined ? undefined : Number(process.env['SEED'])

/** Number of last steps shown of a failed schedule. */
const SHOWN = 60

function trace(seed: number, sabotage?: Sabotage): { lines: string[]; outcome: Outcome } {
  const lines: string[] = []
  const outcome = runSchedule(seed, { log: (line) => lines.push(line), sabotage })
  return { lines, outcome }
}

/** The first seed from 1 to `most` that fails. */
function firstFailure(most: number, sabotage?: Sabotage): { seed: number; message: string } | undefined {
  for (let seed = 1; seed <= most; seed++) {
    const { violation } = runSchedule(seed, { sabotage })
    if (violation !== undefined) return { seed, message: violation.message }
  }
  return undefined
}

if (SEED !== undefined) {
  void t.test(`seed ${SEED}`, async (t) => {
    const { lines, outcome } = trace(SEED)
    for (const line of lines) t.comment(line)
    t.equal(outcome.violation, undefined)
  })
} else {
  void t.test(
    'in no schedule does a client have two owners, or is offered again without proof, lost, overtaken or left over',
    { timeout: LIMIT + starts(SEEDS / 100) },
    async (t) => {
      const seen = new Map<string, number>()
      let steps = 0
      for (let seed = 1; seed <= SEEDS; seed++) {
        const outcome = runSchedule(seed)
        steps += outcome.steps
        for (const [what, count] of outcome.seen) seen.set(what, (seen.get(what) ?? 0) + count)
        if (outcome.violation === undefined) continue
        for (const line of trace(seed).lines.slice(-SHOWN)) t.comment(line)
        t.comment(`replay: SEED=${seed} npm test -- packages/broker/test/simulation.test.ts`)
        t.fail(`seed ${seed}: ${outcome.violation.message}`)
        break
      }
      const summary = [...seen].map(([what, count]) => `${count} ${what}`).join(', ')
      t.comment(`${SEEDS} schedules, ${steps} steps: ${summary}`)
      for (const what of [
        'handed_off',
        'relayed',
        'rejected',
        'client_gone',
        'relinquished',
        'backend killed',
        'broker killed',
        'frozen',
        'preempted',
        'misbehaviour',
        'handed back',
        'given back',
        'adopted again',
        'idle_closed',
        'reload',
      ]) {
        t.ok((seen.get(what) ?? 0) > 0, `it happened: ${what}`)
      }
    },
  )

  // The successor died, the backends moved on to the third worker, and the old one's clients waited until `holdTimeout`.
  void t.test('what waits in a worker whose successor has died goes to the next one', async (t) => {
    const { violation, seen } = runSchedule(1117)
    t.equal(violation, undefined)
    t.equal(seen.get('another successor'), 1)
  })

  void t.test('the same seed is the same schedule', async (t) => {
    for (const seed of [1, 2, 3]) t.same(trace(seed).lines, trace(seed).lines)
    t.not(trace(1).lines.join('\n'), trace(2).lines.join('\n'))
  })

  const sabotages: [sabotage: Sabotage, rule: RegExp][] = [
    ['a write is believed before the kernel has accepted it', /^(I2|I3|M1)/],
    ['control is not read to its end', /^(I1|I3)/],
    ['a read-back leaves the message on the lane', /^(I1|I3)/],
    ['a refused descriptor stays open', /^I3/],
    ['a byte is read between the check and letting go', /^M5/],
    ['a giver does not keep a duplicate', /^I5/],
    ['what is given back is not closed first', /^(M4|I6)/],
    ['the flags of a giver stay', /^I8/],
  ]
  for (const [sabotage, rule] of sabotages) {
    void t.test(`the simulation can fail: ${sabotage}`, { timeout: LIMIT }, async (t) => {
      const found = firstFailure(2000, sabotage)
      t.match(found?.message, rule, `seed ${found?.seed}`)
    })
  }
}
