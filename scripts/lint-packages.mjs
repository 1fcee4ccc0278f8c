// What a user would install of each package: packed once, then looked at by publint (does package.json say what is there?) and by
// attw (do the types that TypeScript finds belong to the code that Node finds?). Run after a build.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = mkdtempSync(join(tmpdir(), 'baton-pack-'))
let failures = 0

/** Prints what the program says when it is not content. */
function demand(what, command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: root, encoding: 'utf8' })
  console.log(`${status === 0 ? 'ok    ' : 'FAILED'} ${what}`)
  if (status === 0) return
  failures += 1
  console.log(error ?? `${stdout}${stderr}`)
}

try {
  for (const name of readdirSync(join(root, 'packages'))) {
    demand(`${name}: npm pack`, 'npm', [
      ...['pack', '--silent', '--workspace', `packages/${name}`],
      ...['--pack-destination', folder],
    ])
    const packed = readdirSync(folder).find((file) => file.includes(name))
    if (packed === undefined) continue
    demand(`${name}: publint --strict`, join(root, 'node_modules/.bin/publint'), [
      ...['run', '--strict', join(folder, packed)],
    ])
    demand(`${name}: attw --profile esm-only`, join(root, 'node_modules/.bin/attw'), [
      ...['--profile', 'esm-only', '--no-color', '--no-emoji', join(folder, packed)],
    ])
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exit(failures === 0 ? 0 : 1)
