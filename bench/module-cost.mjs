// Measures what loading a module costs a start: `npm run bench -- module [--quick] MODULE...`. Each is a package or a file, found from the working folder,
// and loaded by `import`, or by `require` if it is written as `require:MODULE`. Every start is measured beside one that loads nothing. CPU time,
// so that other programs on the machine matter less; private and resident memory; modules (files) loaded.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { median } from './statistics.mjs'

const names = process.argv.slice(2).filter((argument) => argument !== '--quick')
const rounds = process.argv.includes('--quick') ? 3 : 21

const REPORT = `
const { cpuUsage } = process
const { user, system } = cpuUsage()
const rollup = (await import('node:fs')).readFileSync('/proc/self/smaps_rollup', 'utf8')
const size = (name) => Number(new RegExp('^' + name + ': +([0-9]+)', 'm').exec(rollup)[1])
console.log(JSON.stringify({
  ms: (user + system) / 1000,
  privateKiB: size('Private_Clean') + size('Private_Dirty'),
  residentKiB: size('Rss'),
}))`

function loading(name) {
  const [, required] = /^require:(.*)/.exec(name) ?? []
  if (required === undefined) return `await import(${JSON.stringify(name)});`
  const from = JSON.stringify(join(process.cwd(), 'any.js'))
  return `(await import('node:module')).createRequire(${from})(${JSON.stringify(required)});`
}

function start(code, env = {}) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', code + REPORT],
    { env: { ...process.env, NODE_OPTIONS: '', ...env }, encoding: 'utf8' },
  )
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout)
}

function modulesOf(code) {
  const folder = mkdtempSync(join(tmpdir(), 'baton-modules-'))
  start(code, { NODE_V8_COVERAGE: folder })
  const files = readdirSync(folder).map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')))
  rmSync(folder, { recursive: true })
  const urls = files.flatMap(({ result }) => result.map(({ url }) => url))
  // One is the code itself.
  return new Set(urls.filter((url) => url.startsWith('file:'))).size - 1
}

const bare = []
const costs = new Map(names.map((name) => [name, []]))
for (let round = 0; round < rounds; round++) {
  for (const [name, samples] of costs) {
    const [without, having] = [start(''), start(loading(name))]
    bare.push(without.ms)
    samples.push(Object.fromEntries(Object.keys(having).map((key) => [key, having[key] - without[key]])))
  }
}
const base = median(bare)
console.log(`Node ${process.version}, ${rounds} pairs, a bare start takes ${base.toFixed(1)} ms of CPU time`)
for (const [name, samples] of costs) {
  const [ms, own, resident] = ['ms', 'privateKiB', 'residentKiB'].map((key) =>
    median(samples.map((each) => each[key])),
  )
  const share = `${((ms / base) * 100).toFixed(0)} %`
  console.log(
    `${name}: ${ms.toFixed(1)} ms (${share}), private ${own} KiB, RSS ${resident} KiB, modules ${modulesOf(loading(name))}`,
  )
}
