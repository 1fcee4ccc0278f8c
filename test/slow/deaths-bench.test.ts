import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { LIMIT, SOON } from '../support/limits.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'

// Short forms of the programs that kill master, workers and backends under load. Each judges by itself; the full forms are in bench/README.md.

async function run(t: Test, program: string, ...args: string[]): Promise<string> {
  const child = new Program(t, process.execPath, [join(root, program), ...args])
  const { code } = await child.exited
  const text = child.lines.join('\n')
  t.equal(code, 0, text)
  return text
}

void t.test('SIGKILL of the master, and the next start', { timeout: LIMIT }, async (t) => {
  const text = await run(t, 'bench/master-death.mjs', '--quick')
  t.match(text, /^takeovers +2$/m)
  t.match(text, /^requests on kept connections +\d{2,} on 50$/m)
})

void t.test('SIGKILL of the worker with clients that wait', { timeout: LIMIT }, async (t) => {
  const text = await run(t, 'bench/waiting-death.mjs', '--quick')
  t.match(text, /^adopted in the order of their arrival +true$/m)
  t.match(text, /^answered at their next request +500$/m)
})

void t.test('a soak, and its continuation', { timeout: LIMIT }, async (t) => {
  const file = join(temporaryFolder(t), 'soak.json')
  const totals = () => JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>
  await run(t, 'bench/soak.mjs', '--quick', '--resume', file)
  const first = totals()
  t.match(first, { runs: 1, 'failed otherwise': 0 })
  await run(t, 'bench/soak.mjs', '--quick', '--resume', file)
  const { runs, requests = 0 } = totals()
  t.equal(runs, 2)
  t.ok(requests > (first['requests'] ?? 0), 'the totals go on')
})

void t.test('chaos, with the kills of all processes', { timeout: LIMIT }, async (t) => {
  const patience = String(Math.ceil(SOON / 1000))
  const args = ['--kills', '8', '--seed', '3', '--clients', '30', '--patience', patience]
  const text = await run(t, 'test/chaos/run.mjs', ...args)
  t.match(text, /^\| processes killed, in all \| [89] \|$/m)
  t.match(text, /^chaos: no violation$/m)
})
