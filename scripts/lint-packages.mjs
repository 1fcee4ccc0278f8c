// Checks each package as a user would install it: packed once, then checked by publint (does package.json match its
// contents?) and by attw (do the types TypeScript finds belong to the code Node finds?). Run after a build.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const folder = mkdtempSync(join(tmpdir(), 'baton-pack-'))
let failures = 0

/** One command line; no argument may contain a space. Prints the program's output if it fails. */
function demand(line) {
  const [command, ...args] = line.split(' ')
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd: root, encoding: 'utf8' })
  console.log(`${status === 0 ? 'ok    ' : 'FAILED'} ${line}`)
  if (status === 0) return
  failures += 1
  console.log(error ?? `${stdout}${stderr}`)
}

try {
  for (const name of readdirSync(join(root, 'packages'))) {
    demand(`npm pack --silent --workspace packages/${name} --pack-destination ${folder}`)
    const packed = join(folder, readdirSync(folder).find((file) => file.includes(name)) ?? 'nothing')
    demand(`node_modules/.bin/publint run --strict ${packed}`)
    demand(`node_modules/.bin/attw --profile esm-only --no-color --no-emoji ${packed}`)
  }
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exit(failures === 0 ? 0 : 1)
