import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t, { type Test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { LIMIT, START } from '../support/limits.ts'
import { Program } from '../support/process.ts'
import { processesOf } from '../runner/leftovers.mjs'

// The test runner, run on bad test files.

/** @param start the start-up time of a broker that it is given, in ms */
function run(t: Test, files: string[], start = START): Program {
  return new Program(t, process.execPath, ['test/runner/main.mjs', ...files], {
    env: { TEST_START_MS: String(start) },
    group: true,
  })
}

/** The processes of a run are identified by its temporary folder's name. */
function isGone(folder: string): boolean {
  return !existsSync(folder) && processesOf(folder.split('/').at(-1) ?? '').length === 0
}

void t.test(
  'a file that leaves a process and a file behind fails, and they are removed',
  { timeout: LIMIT },
  async (t) => {
    const runner = run(t, ['test/runner/samples/forgetful.ts'])
    t.equal((await runner.exited).code, 1)
    const output = runner.lines.join('\n')
    t.match(output, /not ok 2 - left behind: process \d+ sleep 1000, forgotten$/m)
    t.match(output, /^# \{ total: 2, pass: 1, fail: 1 \}$/m)
    const named = spawnSync(process.execPath, ['test/runner/failures.mjs'], {
      input: output,
      encoding: 'utf8',
    })
    t.match(
      named.stdout,
      /^\ntest\/runner\/samples\/forgetful\.ts\nnot ok 2 - left behind: .*\n {2}---\n/,
      'CI prints it again',
    )
    t.equal(named.stdout.match(/^not ok/gm)?.length, 1, 'and nothing else')
  },
)

void t.test(
  'when a run is killed, its broker, backends and folders go with it',
  { timeout: LIMIT },
  async (t) => {
    const runner = run(t, ['test/runner/samples/endless.ts'])
    const place = /^running below (.*)\/f0\//.exec(
      await runner.line((line) => line.startsWith('running below'), 'where'),
    )
    const folder = place?.[1] ?? ''
    const processes = processesOf(folder.split('/').at(-1) ?? '')
    t.ok(processes.length >= 4, `the file, master, worker, backend: ${JSON.stringify(processes)}`)
    runner.kill('SIGKILL')
    await eventually(() => isGone(folder), 'nothing is left of the run')
  },
)
