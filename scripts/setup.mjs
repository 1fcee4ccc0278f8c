// Makes a fresh clone runnable: installs what the lock file names, then builds. Both steps are skipped or
// cached if nothing has changed, so `npm start` and `npm test` run this first.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const env = { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' }

/** npm writes a copy of the lock file it installed from; when it differs in packages, the install is stale. */
function installed() {
  const marker = join(root, 'node_modules/.package-lock.json')
  if (!existsSync(marker)) return false
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  const present = JSON.parse(readFileSync(marker, 'utf8')).packages
  return Object.entries(wanted).every(([path, entry]) => {
    if (!path.includes('node_modules/') || entry.link || entry.optional || entry.devOptional) return true
    return present[path]?.version === entry.version
  })
}

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, env, stdio: ['ignore', 2, 2] })
  if (result.status !== 0) {
    console.error(
      `setup: \`${command} ${args.join(' ')}\` failed (${result.error ?? `exit code ${result.status}`})`,
    )
    process.exit(1)
  }
}

if (!installed()) run('npm', ['ci', '--no-audit', '--no-fund'])
run('npm', ['run', '--silent', 'build'])
