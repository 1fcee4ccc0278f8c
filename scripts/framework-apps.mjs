// Apps of frameworks that are too large to be dependencies of everyone who works on Baton: each folder of `test/apps` with a `package.json` is
// installed and built once, in `.cache/apps`, with the Node line that they run on. `npm run test:apps` does it before its tests, because a build
// on a busy machine may take longer than a test file is given.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installedNode } from './node-release.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const sources = join(root, 'test/apps')
const cache = join(root, '.cache/apps')

/** Pinned, like the frameworks. Several of them have left Node 20 and 22. */
const NODE = '24.22.3'

/** Apps whose sources are those of another, with a `package.json` of their own: an older line of the same framework. */
const SAME_SOURCES = { 'next-15': 'next' }

/** Names of the apps. */
export const FRAMEWORK_APPS = readdirSync(sources).filter((name) =>
  existsSync(join(sources, name, 'package.json')),
)

const node = installedNode(NODE)

/** The `node` that they run on. */
export const FRAMEWORK_NODE = join(node.bin, 'node')

/** Environment of a build, and of the apps: no telemetry, and this Node first. */
export const FRAMEWORK_ENV = {
  NODE_ENV: 'production',
  NEXT_TELEMETRY_DISABLED: '1',
  NUXT_TELEMETRY_DISABLED: '1',
  ASTRO_TELEMETRY_DISABLED: '1',
  PATH: `${node.bin}:${process.env.PATH}`,
}

/**
 * The folder of an installed and built app; it is made if it is missing, or if a source has changed.
 *
 * @param {string} name
 */
export function builtApp(name) {
  // Without it npm would install what is above.
  if (!FRAMEWORK_APPS.includes(name)) throw new Error(`test/apps/${name} has no package.json`)
  const parts = [SAME_SOURCES[name], name]
    .filter((part) => part !== undefined)
    .map((part) => join(sources, part))
  const folder = join(cache, `${name}-${digestOf(parts)}`)
  // Written last: an interrupted build is begun again.
  const complete = join(folder, '.complete')
  if (existsSync(complete)) return folder
  mkdirSync(cache, { recursive: true })
  for (const old of readdirSync(cache).filter((each) => each.replace(/-[\da-f]{12}$/, '') === name))
    rmSync(join(cache, old), { recursive: true, force: true })
  for (const part of parts) cpSync(part, folder, { recursive: true })
  npm(folder, 'install', '--no-audit', '--no-fund', '--no-package-lock', '--prefer-offline')
  npm(folder, 'run', 'build', '--if-present')
  writeFileSync(complete, '')
  return folder
}

function npm(cwd, ...args) {
  const { status, stdout, stderr } = spawnSync('npm', args, {
    cwd,
    // npm and several frameworks would keep compiled code in the temporary folder.
    env: { ...process.env, ...FRAMEWORK_ENV, NODE_DISABLE_COMPILE_CACHE: '1' },
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`npm ${args[0]} failed in ${cwd}:\n${stdout}\n${stderr}`)
}

/** Of its sources, their paths, and the Node line. */
function digestOf(folders) {
  const hash = createHash('sha256').update(node.version)
  for (const folder of folders) {
    const all = readdirSync(folder, { recursive: true, withFileTypes: true })
    const paths = all.filter((each) => each.isFile()).map((each) => join(each.parentPath, each.name))
    for (const path of paths.toSorted())
      hash.update(`\0${relative(folder, path)}\0`).update(readFileSync(path))
  }
  return hash.digest('hex').slice(0, 12)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const named = process.argv.slice(2)
  for (const name of named.length > 0 ? named : FRAMEWORK_APPS) {
    console.error(`building ${name}`)
    builtApp(name)
  }
}
