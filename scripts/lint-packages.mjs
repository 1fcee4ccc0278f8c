// Packs each package, and checks what a user would install: publint (does package.json describe what is there?), attw (do the
// types that TypeScript finds belong to the code that Node finds?), and the list of files. Run after a build.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = mkdtempSync(join(tmpdir(), 'baton-pack-'))
/** In every package. */
const NEEDED = ['LICENSE', 'README.md', 'package.json', 'dist/bundle/index.js', 'dist/index.d.ts']
/** The broker's bundle contains its dependencies. */
const NOTICES = 'dist/bundle/THIRD-PARTY-NOTICES.txt'
/** For development only. */
const UNWANTED = /\.map$|\.tsbuildinfo$|^(?:src|test|scripts)\//
let failures = 0

function report(what, problem) {
  console.log(`${problem === undefined ? 'ok    ' : 'FAILED'} ${what}`)
  if (problem === undefined) return
  failures += 1
  console.log(problem)
}

function run(command, args) {
  return spawnSync(command, args, { cwd: root, encoding: 'utf8' })
}

/** One command line; no argument may contain a space. Prints the program's output if it fails. */
function demand(line) {
  const [command, ...args] = line.split(' ')
  const { status, stdout, stderr, error } = run(command, args)
  report(line, status === 0 ? undefined : (error ?? `${stdout}${stderr}`))
}

/** @param {string} packed path of a tarball */
function checkFiles(packed) {
  const files = run('tar', ['-tf', packed])
    .stdout.trim()
    .split('\n')
    .map((file) => file.replace(/^package\//, ''))
  const licence = run('tar', ['-xOf', packed, 'package/LICENSE']).stdout
  const problems = [
    ...(packed.includes('broker') ? [...NEEDED, NOTICES] : NEEDED)
      .filter((file) => !files.includes(file))
      .map((file) => `${file} is missing`),
    ...files.filter((file) => UNWANTED.test(file)).map((file) => `${file} should not be there`),
    ...(licence === readFileSync(join(root, 'LICENSE'), 'utf8') ? [] : ['LICENSE differs from the root’s']),
  ]
  report(`files of ${packed}`, problems.length === 0 ? undefined : problems.join('\n'))
}

try {
  for (const name of readdirSync(join(root, 'packages'))) {
    demand(`npm pack --silent --ignore-scripts --workspace packages/${name} --pack-destination ${folder}`)
    const packed = join(folder, readdirSync(folder).find((file) => file.includes(name)) ?? 'nothing')
    checkFiles(packed)
    demand(`node_modules/.bin/publint run --strict ${packed}`)
    demand(`node_modules/.bin/attw --profile esm-only --no-color --no-emoji ${packed}`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exit(failures === 0 ? 0 : 1)
