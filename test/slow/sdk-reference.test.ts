import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { read } from '../support/markdown.ts'
import { cleanEnvironment, root, temporaryFolder } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'

void t.test('the reference of the SDK is generated without warnings', { timeout: LIMIT }, async (t) => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  t.match(scripts['docs'], /&& typedoc$/, 'npm run docs, after a build')
  const folder = temporaryFolder(t)
  const json = join(folder, 'reference.json')
  const { status, stdout, stderr } = spawnSync(
    'node_modules/.bin/typedoc',
    ['--out', join(folder, 'html'), '--json', json],
    {
      cwd: root,
      env: cleanEnvironment(),
    },
  )
  t.equal(status, 0, `${stdout.toString()}${stderr.toString()}`)

  const reference = JSON.parse(readFileSync(json, 'utf8')) as {
    children: { name: string; children: { name: string }[] }[]
  }
  const names = reference.children.flatMap((module) =>
    module.children.map(({ name }) => `${module.name}.${name}`),
  )
  for (const name of ['index.createBackend', 'index.Backend', 'index.BackendOptions', 'fastify.default'])
    t.ok(names.includes(name), name)
})
