// Compiles the C programs of this folder for this machine on first use.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { found, needed } from './installed.mjs'
import { program, temporaryFolder } from './scratch.mjs'

const FLAGS = ['-O2', '-Wall', '-Wextra', '-Werror']

/** @type {Map<string, string>} */
const done = new Map()

/** @returns {string | undefined} the first line of the compiler's version output */
export function compilerVersion() {
  const compiler = found('cc')
  return compiler && spawnSync(compiler, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0]
}

/**
 * The path of the compiled `bench/NAME.c`.
 *
 * @param {string} name
 * @throws {import('./peers/peer.mjs').LeftOut} there is no compiler
 */
export function compiled(name) {
  const known = done.get(name)
  if (known !== undefined) return known
  const compiler = needed('cc')
  const output = join(temporaryFolder(), name)
  const source = program(`bench/${name}.c`)
  const { status, stderr } = spawnSync(compiler, [...FLAGS, '-o', output, source], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${compiler} cannot compile ${source}:\n${stderr}`)
  done.set(name, output)
  return output
}
