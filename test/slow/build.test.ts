import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { read } from '../support/markdown.ts'
import { cleanEnvironment, root, temporaryFolder } from '../support/process.ts'

// The build script, in a small repository with the tools and settings of this one.

void t.test('the build always matches the sources', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const write = (file: string, value: unknown) =>
    writeFileSync(join(folder, file), typeof value === 'string' ? value : JSON.stringify(value))
  for (const file of ['turbo.json', 'tsconfig.base.json', 'scripts/build.mjs', '.gitignore'])
    cpSync(join(root, file), join(folder, file))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  const { packageManager } = JSON.parse(read('package.json')) as { packageManager: string }
  write('package.json', { name: 'small', private: true, workspaces: ['packages/one'], packageManager })
  mkdirSync(join(folder, 'packages/one/src'), { recursive: true })
  write('packages/one/package.json', { name: 'one', type: 'module', scripts: { build: 'tsc' } })
  const settings = JSON.parse(read('packages/native-sendmsg/tsconfig.json')) as { compilerOptions: object }
  // The types of Node are most of what compiling takes.
  write('packages/one/tsconfig.json', {
    ...settings,
    compilerOptions: { ...settings.compilerOptions, types: [] },
  })
  const lock = { lockfileVersion: 3, packages: { '': { name: 'small', workspaces: ['packages/one'] } } }
  write('package-lock.json', lock)

  const source = (name: string, value: string) =>
    write(`packages/one/src/${name}.ts`, `export const ${name}: string = '${value}'\n`)
  const dist = join(folder, 'packages/one/dist')
  /** Builds, and returns the scripts of `dist` with the values in them. */
  const built = () => {
    const { status, stderr } = spawnSync(process.execPath, [join(folder, 'scripts/build.mjs')], {
      env: cleanEnvironment(),
      encoding: 'utf8',
    })
    t.equal(status, 0, stderr)
    const scripts = readdirSync(dist).filter((file) => file.endsWith('.js'))
    return Object.fromEntries(
      scripts.map((file) => [file, /'(.*)'/.exec(readFileSync(join(dist, file), 'utf8'))?.[1]]),
    )
  }

  source('a', 'first')
  source('b', 'first')
  t.same(built(), { 'a.js': 'first', 'b.js': 'first' })
  source('a', 'second')
  source('b', 'second')
  t.same(built(), { 'a.js': 'second', 'b.js': 'second' })
  source('a', 'first')
  source('b', 'first')
  t.same(built(), { 'a.js': 'first', 'b.js': 'first' }, 'restored from the cache')
  source('b', 'second')
  t.same(built(), { 'a.js': 'first', 'b.js': 'second' }, 'a compilation after a restored one')

  rmSync(join(folder, 'packages/one/src/b.ts'))
  t.same(built(), { 'a.js': 'first' }, 'a source was deleted')
  source('b', 'second')
  t.same(built(), { 'a.js': 'first', 'b.js': 'second' }, 'and restored')
  rmSync(dist, { recursive: true })
  source('a', 'third')
  t.same(built(), { 'a.js': 'third', 'b.js': 'second' }, 'the output was deleted')

  source('a', 'fourth')
  write('packages/one/src/c.ts', 'export const c: number = "no number"\n')
  const failed = spawnSync(process.execPath, [join(folder, 'scripts/build.mjs')], {
    env: cleanEnvironment(),
    encoding: 'utf8',
  })
  t.equal(failed.status, 1)
  t.match(failed.stderr, /src\/c\.ts.*error TS2322/)
  rmSync(join(folder, 'packages/one/src/c.ts'))
  t.same(built(), { 'a.js': 'fourth', 'b.js': 'second' }, 'a build after one that failed')
})
