// Runs the suite on the newest release of each supported Node line (node-release.mjs). `npm run test:matrix -- 22 24` runs the suite on these two
// only, `npm run test:matrix -- 22 test/relay.test.ts` runs single files.
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installedNode } from './node-release.mjs'

const LINES = ['20', '22', '24', '26']
const root = join(dirname(fileURLToPath(import.meta.url)), '..')

function run(command, args, options = {}) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', ...options })
}

const wanted = process.argv.slice(2)
const lines = wanted.filter((word) => /^\d+$/.test(word))
const files = wanted.filter((word) => !lines.includes(word))
const rows = []
for (const line of lines.length > 0 ? lines : LINES) {
  const { version, bin } = installedNode(line)
  console.log(`\n== Node ${version}`)
  const tests = run('npm', ['test', '--', ...files], {
    env: { ...process.env, PATH: `${bin}:${process.env.PATH}` },
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 256 * 1024 * 1024,
  })
  const failures = tests.stdout.split('\n').filter((text) => /^\s*not ok /.test(text))
  for (const failure of failures) console.log(failure)
  const totals = tests.stdout.match(/^# \{ total: .*\}$/gm)?.at(-1) ?? '# no totals'
  console.log(totals)
  rows.push({ node: version, exit: tests.status, totals: totals.slice(2) })
}
console.table(rows)
process.exit(rows.every(({ exit }) => exit === 0) ? 0 : 1)
