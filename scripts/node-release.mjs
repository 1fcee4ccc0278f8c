// The newest release of a Node line, installed once. The binaries come from the registry's `node-linux-<arch>` package, so npm is all that
// is needed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const cache = join(root, '.cache/node')

const run = (command, args) => spawnSync(command, args, { cwd: root, encoding: 'utf8' })

function byNumber(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number))
  const index = left.findIndex((part, at) => part !== right[at])
  return index === -1 ? 0 : left[index] - right[index]
}

const isExact = (line) => line.split('.').length === 3

/** The folder that contains the `node` of a release line, or of one release. @param {string} line */
export function installedNode(line) {
  const name = `node-linux-${process.arch}`
  const installed = join(cache, line, 'node_modules', name, 'bin')
  if (isExact(line) && existsSync(join(installed, 'node'))) return { version: line, bin: installed }
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
