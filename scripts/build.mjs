// Builds every package and the examples. turbo skips or restores packages without a change, and `tsc` compiles the others
// incrementally. Its record, dist/tsconfig.tsbuildinfo, is cached, restored and removed together with the output it describes.
// The output of deleted sources is removed first: neither turbo nor `tsc` does that.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const OUTPUT = /\.(?:js|d\.ts)(?:\.map)?$/

/** Removes output without a source, and with it the record, which says that these files exist. */
function prune(workspace) {
  const dist = join(root, workspace, 'dist')
  if (!existsSync(dist)) return
  const orphans = readdirSync(dist, { recursive: true }).filter(
    (file) => OUTPUT.test(file) && !existsSync(join(root, workspace, 'src', file.replace(OUTPUT, '.ts'))),
  )
  for (const file of orphans) rmSync(join(dist, file))
  if (orphans.length > 0) rmSync(join(dist, 'tsconfig.tsbuildinfo'), { force: true })
}

const { workspaces } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
for (const workspace of workspaces) prune(workspace)
// Standard output is left to the program that is run next: that of a test run is TAP.
const { status, error } = spawnSync(
  join(root, 'node_modules/.bin/turbo'),
  ['run', 'build', '--output-logs=errors-only'],
  {
    cwd: root,
    env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' },
    stdio: ['ignore', 2, 2],
  },
)
if (status !== 0) {
  console.error(`the build failed (${error ?? `exit code ${status}`})`)
  process.exit(1)
}
