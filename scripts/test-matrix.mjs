// Runs the suite on the newest release of each supported Node line. The binaries come from the registry's
// `node-linux-<arch>` package, so npm is all that is needed. `npm run test:matrix -- 22 24` runs the suite on these two
// only, `npm run test:matrix -- 22 test/relay.test.ts` runs single files.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const LINES = ['20', '22', '24', '26']
const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const cache = join(root, '.cache/node')

function run(command, args, options = {}) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8', ...options })
}

function byNumber(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number))
  const index = left.findIndex((part, at) => part !== right[at])
  return index === -1 ? 0 : left[index] - right[index]
}

/** The folder that contains the `node` of a release line. */
function install(line) {
  const name = `node-linux-${process.arch}`
  const found = run('npm', ['view', `${name}@${line}`, 'version', '--json'])
  const versions = [found.status === 0 ? JSON.parse(found.stdout) : []].flat()
  const version = versions.toSorted(byNumber).at(-1)
  if (version === undefined) throw new Error(`the registry has no ${name} of line ${line}`)
  const folder = join(cache, version)
  const bin = join(folder, 'node_modules', name, 'bin')
  if (!existsSync(join(bin, 'node'))) {
    mkdirSync(folder, { recursive: true })
    const done = run('npm', [
      'install',
      '--prefix',
      folder,
      '--no-save',
      '--no-audit',
      '--no-fund',
      `${name}@${version}`,
    ])
    if (done.status !== 0) throw new Error(`${name}@${version} could not be installed:\n${done.stderr}`)
  }
  if (!readdirSync(bin).includes('node')) throw new Error(`${bin} holds no node`)
  return { version, bin }
}

const wanted = process.argv.slice(2)
const lines = wanted.filter((word) => /^\d+$/.test(word))
const files = wanted.filter((word) => !lines.includes(word))
const rows = []
for (const line of lines.length > 0 ? lines : LINES) {
  const { version, bin } = install(line)
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
