import { join } from 'node:path'
import t from 'tap'
import { LIMIT, SOON } from '../support/limits.ts'
import { Program, root } from '../support/process.ts'

const SEED = 1

void t.test(
  'chaos: clients of all kinds while backends are killed, stopped, drained and misbehave, again and again',
  { timeout: LIMIT },
  async (t) => {
    const patience = Math.ceil(SOON / 1000)
    const args = [
      '--seconds',
      '20',
      '--seed',
      `${SEED}`,
      '--clients',
      '150',
      '--patience',
      `${patience}`,
      '--quick',
    ]
    const run = new Program(t, process.execPath, [join(root, 'test/chaos/run.mjs'), ...args])
    const { code } = await run.exited
    for (const line of run.lines) t.comment(line)
    t.equal(code, 0, `no violation with seed ${SEED}`)
    t.match(run.lines.at(-1), /no violation$/)
    t.match(run.lines.join('\n'), /^\| short \| [1-9]\d{2,} \|/m, 'there was load')
    t.match(run.lines.join('\n'), /^\| kill all \| [1-9]/m)
  },
)
