// Other runtimes, installed once. npm packages carry their binaries.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const cache = fileURLToPath(new URL('../.cache/runtimes', import.meta.url))

/** Package, version and path of each binary (x64, glibc). */
const RUNTIMES = {
  bun: ['@oven/bun-linux-x64', '1.4.5', 'bin/bun'],
  deno: ['@deno/linux-x64-glibc', '2.9.6', 'deno'],
}

/** Path of the binary. @param {'bun' | 'deno'} name */
export function installedRuntime(name) {
  const [from, version, file] = RUNTIMES[name]
  const folder = join(cache, `${name}-${version}`)
  const binary = join(folder, 'node_modules', from, file)
  if (existsSync(binary)) return binary
  mkdirSync(folder, { recursive: true })
  const flags = ['--no-save', '--no-audit', '--no-fund']
  const done = spawnSync('npm', ['install', '--prefix', folder, ...flags, `${from}@${version}`], {
    encoding: 'utf8',
  })
  if (done.status !== 0 || !existsSync(binary))
    throw new Error(`${from}@${version} could not be installed:\n${done.stderr}`)
  return binary
}
