import { join } from 'node:path'
import t from 'tap'
import { Program, root } from './support/process.ts'

const SEED = 1

void t.test(
  'chaos: clients of all kinds while backends are killed, stopped, drained and misbehave',
  { timeout: 110_000 },
  async (t) => {
    const args = ['--seconds', '10', '--seed', String(SEED), '--clients', '150', '--quick']
    const run = new Program(t, process.execPath, [join(root, 'test/chaos/run.mjs'), ...args])
    const { code } = await run.exited
    for (const line of run.lines) t.comment(line)
    t.equal(code, 0, `no violation with seed ${SEED}`)
    t.match(run.lines.at(-1), /no violation$/)
    t.match(run.lines.join('\n'), /^\| short \| [1-9]\d{2,} \|/m, 'there was load')
  },
)

void t.test('chaos: wrong usage is told apart from a violation', { timeout: 30_000 }, async (t) => {
  const run = new Program(t, process.execPath, [join(root, 'test/chaos/run.mjs'), '--seconds', 'many'])
  t.match(await run.exited, { code: 2 })
  t.match(run.lines, [/many is not a whole number/, /^usage: npm run chaos/])
})
