// The version of the repository is the one in the root's package.json. `npm version X` changes it there, and runs this before
// it commits: the packages, what they require of each other, the lock file, and a section of the changelog follow.
import { readFileSync, writeFileSync } from 'node:fs'
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
