import { join } from 'node:path'
import t from 'tap'
import { starts } from '../support/limits.ts'
import { Program, root } from '../support/process.ts'

// Tests that repeat something to find leaks, or draw at random: a few rounds in `npm test`, many here.

const files: [file: string, env: Record<string, string>][] = [
  ['packages/native-sendmsg/test/execute.test.ts', { EXECS: '200' }],
  ['packages/broker/test/fleet.test.ts', { EXECS: '10' }],
  ['packages/broker/test/simulation.test.ts', { SEEDS: '2000' }],
  ['packages/broker/test/request-head.test.ts', { HEADS: '100000' }],
  ['packages/backend-sdk/test/attach.test.ts', { ATTACHED: '10000' }],
  ['packages/backend-sdk/test/protocol-decoder.test.ts', { TIMES: '10' }],
  ['packages/backend-sdk/test/protocol-frames.test.ts', { TIMES: '10' }],
]

const stripTypes = join(root, 'test/runner/strip-types.mjs')
const { TEST_START_MS, TAP_TIMEOUT } = process.env

for (const [file, env] of files) {
  const what = Object.entries(env).map(([name, count]) => `${name}=${count}`)
  void t.test(`${file}: ${what.join(' ')}`, { timeout: starts(60) }, async (t) => {
    const run = new Program(t, process.execPath, [`--import=${stripTypes}`, join(root, file)], {
      env: { ...env, TEST_START_MS, TAP_TIMEOUT },
    })
    const { code, signal } = await run.exited
    if (code !== 0) for (const line of run.lines) t.comment(line)
    t.same({ code, signal }, { code: 0, signal: null })
  })
}
