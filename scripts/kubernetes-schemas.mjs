// Schemas of the objects of Kubernetes, installed once: those of its OpenAPI document as validators, and the same as types.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The schemas say what a known field may hold; the types refuse unknown fields, which the API server ignores. */
const PACKAGES = ['kubernetes-models@5.1.0', 'kubernetes-types@1.30.0']
const folder = fileURLToPath(new URL('../.cache/kubernetes-schemas', import.meta.url))

/** The folder that has them in its `node_modules`. */
export function installedSchemas() {
  const has = (name) => existsSync(join(folder, 'node_modules', name.split('@')[0], 'package.json'))
  if (PACKAGES.every(has)) return folder
  mkdirSync(folder, { recursive: true })
  const flags = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts']
  const done = spawnSync('npm', ['install', '--prefix', folder, ...flags, ...PACKAGES], { encoding: 'utf8' })
  if (done.status !== 0 || !PACKAGES.every(has))
    throw new Error(`${PACKAGES.join(', ')} could not be installed:\n${done.stderr}`)
  return folder
}
