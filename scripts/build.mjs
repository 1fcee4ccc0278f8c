// Builds every package and the examples. turbo skips or restores what has not changed, and `tsc` compiles the rest
// incrementally: its record is dist/tsconfig.tsbuildinfo, so that it is cached, restored and removed together with what it
// describes. The output of a source that is gone is removed first: neither turbo nor `tsc` does that.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const OUTPUT = /\.(?:js|d\.ts)(?:\.map)?$/

/** Removes what no source compiles to. The record goes with it: it would claim that these files are still there. */
function prune(workspace) {
  const dist = join(root, workspace, 'dist')
  if (!existsSync(dist)) return
  const orphans = readdirSync(dist, { recursive: true }).filter(
    (file) => OUTPUT.test(file) && !existsSync(join(root, workspace, 'src', file.replace(OUTPUT, '.ts'))),
  )
  for (const file of orphans) rmSync(join(dist, file))
  if (orphans.length > 0) rmSync(join(dist, 'tsconfig.tsbuildinfo'), { force: true })
}

/** Everything it prints goes to standard error: the standard output of a test run is TAP. */
export function build() {
  const { workspaces } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const workspace of workspaces) prune(workspace)
  const { status, error } = spawnSync(
    join(root, 'node_modules/.bin/turbo'),
    ['run', 'build', '--output-logs=errors-only'],
    {
      cwd: root,
      env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' },
      stdio: ['ignore', 2, 2],
    },
  )
  if (status === 0) return
  console.error(`the build failed (${error ?? `exit code ${status}`})`)
  process.exit(1)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build()
