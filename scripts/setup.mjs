// Makes a fresh clone runnable: installs what the lock file names, then builds. Both steps are skipped or
// cached if nothing has changed, so `npm start` and every test run begin with this.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

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

if (!installed()) {
  const { status, error } = spawnSync('npm', ['ci', '--no-audit', '--no-fund'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
  })
  if (status !== 0) {
    console.error(`setup: \`npm ci\` failed (${error ?? `exit code ${status}`})`)
    process.exit(1)
  }
}
await import('./build.mjs')
