// The root's package.json holds the one version of the repository. `npm version X` changes it there, and runs this before it
// commits: it writes the version into the packages, their dependencies on each other, the lock file and the changelog.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const pathOf = (file) => fileURLToPath(new URL(`../${file}`, import.meta.url))
const read = (file) => readFileSync(pathOf(file), 'utf8')
const write = (file, value) => writeFileSync(pathOf(file), `${JSON.stringify(value, undefined, 2)}\n`)

const { version, workspaces } = JSON.parse(read('package.json'))
const lock = JSON.parse(read('package-lock.json'))
lock.version = version
lock.packages[''].version = version
for (const workspace of workspaces) {
  const manifest = JSON.parse(read(`${workspace}/package.json`))
  for (const entry of [manifest, lock.packages[workspace]]) {
    entry.version = version
    for (const name of Object.keys(entry.dependencies ?? {}))
      if (name.startsWith('@baton/')) entry.dependencies[name] = version
  }
  write(`${workspace}/package.json`, manifest)
  // A constant, so that a program need not find and read its package.json to say its version.
  const source = pathOf(`${workspace}/src/version.ts`)
  if (existsSync(source))
    writeFileSync(source, readFileSync(source, 'utf8').replace(/\d[^'/]*(?='\n)/, version))
}
write('package-lock.json', lock)

const today = new Date().toISOString().slice(0, 10)
const changelog = read('CHANGELOG.md')
const section = `## [${version}]`
writeFileSync(
  pathOf('CHANGELOG.md'),
  changelog.includes(section)
    ? changelog.replace(`${section} - unreleased`, `${section} - ${today}`)
    : changelog.replace('## [Unreleased]\n', `## [Unreleased]\n\n${section} - ${today}\n`),
)
