// The packages as they were at a commit of this repository, built beside today's, for comparisons and for tests of both together.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))

/** The last commit before connections were handed back, and before packages were bundled. */
export const OLD = '83a7e65'

/**
 * Their sources, as a tar archive; undefined in a clone whose history does not go back that far.
 *
 * @param {string} commit
 */
export function history(commit = OLD) {
  const paths = ['packages/native-sendmsg', 'packages/backend-sdk', 'packages/broker', 'tsconfig.base.json']
  const { status, stdout } = spawnSync('git', ['archive', commit, ...paths], {
    cwd: root,
    maxBuffer: 2 ** 28,
  })
  return status === 0 ? stdout : undefined
}

/** File by file, as `tsc` did: imports of `.ts` become imports of `.js`. @param {string} folder of a package */
async function compile(folder) {
  const source = join(folder, 'src')
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' })
  await build({
    entryPoints: files.filter((file) => file.endsWith('.ts')).map((file) => join(source, file)),
    outbase: source,
    outdir: join(folder, 'dist'),
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    target: 'node20.18',
    plugins: [
      {
        name: 'file by file',
        setup: (building) =>
          building.onResolve({ filter: /^\.{1,2}\// }, ({ path }) => ({
            path: path.replace(/\.ts$/, '.js'),
            external: true,
          })),
      },
    ],
  })
}

/**
 * Builds them with today's dependencies. Programs in the folder import them by their names.
 *
 * @param {Buffer} archive from `history`
 * @param {string} folder exists, and is empty
 */
export async function buildOld(archive, folder) {
  spawnSync('tar', ['-x'], { cwd: folder, input: archive })
  const modules = join(folder, 'node_modules')
  mkdirSync(join(modules, '@baton'), { recursive: true })
  for (const name of readdirSync(join(root, 'node_modules')))
    if (name !== '@baton') symlinkSync(join(root, 'node_modules', name), join(modules, name))
  for (const name of ['native-sendmsg', 'backend-sdk', 'broker']) {
    const own = join(folder, 'packages', name)
    symlinkSync(own, join(modules, '@baton', name))
    await compile(own)
  }
}
