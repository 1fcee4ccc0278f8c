import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { batonHere } from './support/command.ts'
import { allPages, filesBelow, read } from './support/markdown.ts'
import { PACKAGES } from './support/packed.ts'
import { root } from './support/process.ts'

// Facts that several files state: versions, licences, and the names of scripts.

interface Manifest {
  readonly version: string
  readonly license?: string
  readonly scripts: Readonly<Record<string, string>>
  readonly workspaces: readonly string[]
  readonly dependencies?: Readonly<Record<string, string>>
}

interface Workflow {
  readonly jobs: Readonly<Record<string, { readonly steps: readonly { run?: string; uses?: string }[] }>>
}

const manifestOf = (folder: string) => JSON.parse(read(join(folder, 'package.json'))) as Manifest
const { version, scripts, workspaces } = manifestOf('.')

void t.test('there is one version, that of the root', async (t) => {
  const lock = JSON.parse(read('package-lock.json')) as { packages: Readonly<Record<string, Manifest>> }
  for (const workspace of workspaces) {
    for (const manifest of [manifestOf(workspace), lock.packages[workspace]]) {
      t.equal(manifest?.version, version, `${workspace}: npm version ${version} --allow-same-version`)
      for (const [name, wanted] of Object.entries(manifest?.dependencies ?? {}))
        if (name.startsWith('@baton/')) t.equal(wanted, version, `${workspace} needs ${name}`)
    }
  }
  t.same((await batonHere('--version')).out, [version])
  t.ok(read('CHANGELOG.md').includes(`\n## [${version}] - `), 'the changelog has a section of it')
})

void t.test('each package has the licence', async (t) => {
  for (const name of PACKAGES) {
    t.equal(read(`packages/${name}/LICENSE`), read('LICENSE'), name)
    t.equal(manifestOf(`packages/${name}`).license, 'Apache-2.0', name)
  }
})

const workflows = filesBelow('.github/workflows', '.yml')
const steps = workflows.flatMap((file) =>
  Object.values((parse(read(file)) as Workflow).jobs)
    .flatMap((job) => job.steps)
    .map(({ run, uses }) => ({ file, run, uses })),
)

void t.test('the workflows run existing files, and pin actions to a major version', async (t) => {
  t.same(workflows.toSorted(), ['.github/workflows/ci.yml', '.github/workflows/release.yml'])
  t.ok(steps.length > 10)
  for (const { file, run = '', uses } of steps) {
    if (uses !== undefined) t.match(uses, /^[\w-]+\/[\w-]+@v\d+$/, `${file}: ${uses}`)
    for (const [path] of run.matchAll(/(?<![\w@./])(?:\.ci|test|packages|scripts)\/[\w./-]+/g))
      t.ok(existsSync(join(root, path)), `${file}: ${path}`)
  }
})

void t.test('every npm script named in a page, a workflow or a source exists', async (t) => {
  const programs = ['scripts', 'bench', 'test', 'packages', 'examples'].flatMap((folder) =>
    ['.ts', '.mjs', '.mts'].flatMap((end) => filesBelow(folder, end)),
  )
  const files = [...allPages(), ...workflows, ...programs, '.ci/run', 'package.json', 'CHANGELOG.md']
  const named = files
    .filter((file) => !file.includes('/dist/'))
    .flatMap((file) =>
      [...read(file).matchAll(/\bnpm run (?:--silent )?([a-z][\w:-]*\w)/g)].map(([, script = '']) => ({
        file,
        script,
      })),
    )
  t.ok(named.length > 20)
  for (const { file, script } of named) t.ok(script in scripts, `${file}: npm run ${script}`)
})

void t.test('bench/README.md lists what npm run bench does, and pages name nothing else', async (t) => {
  const listed = execFileSync(process.execPath, [join(root, 'bench/main.mjs')], { encoding: 'utf8' })
  const names = new Set([...listed.matchAll(/^([a-z-]+) {2,}/gm)].map(([, name]) => name))
  const namedIn = (file: string) =>
    [...read(file).matchAll(/npm run bench -- ([a-z][\w-]*)/g)].map(([, name]) => name)
  t.same(new Set(namedIn('bench/README.md')), names)
  for (const page of [...allPages(), 'CHANGELOG.md'])
    for (const name of namedIn(page)) t.ok(names.has(name), `${page}: npm run bench -- ${name}`)
})
