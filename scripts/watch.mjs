// `npm run watch -- FILE...`: runs the named test files, and runs them again whenever a source or a test changes. A change
// during a run interrupts it; the runner ends the processes that it started. Without files it only builds.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, watch } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** In ms. Saving several files, or one through a temporary file, causes one run. */
const SETTLE_MS = 100
const LEFT_OUT = /(?:^|\/)(?:node_modules|dist|__pycache__|\.\w+)(?:\/|$)/
const SOURCE = /\.(?:[cm]?[jt]s|json|py|html|css)$/

const files = process.argv.slice(2)
const command =
  files.length > 0 ? [join(root, 'test/runner/main.mjs'), ...files] : [join(root, 'scripts/build.mjs')]

/** One watcher for each folder. */
const watched = new Map()
let settling
/** The current run. It leads a process group, so that an interrupted build ends as a whole. */
let child
/** A file has changed since the run began. */
let outdated = false

function watchFolders() {
  for (const top of ['packages', 'examples', 'test']) {
    const below = readdirSync(join(root, top), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name))
    for (const folder of [join(root, top), ...below]) {
      if (watched.has(folder) || LEFT_OUT.test(folder.slice(root.length))) continue
      const watcher = watch(folder, (event, name) => {
        // A new name without an extension may be a folder.
        if (SOURCE.test(name) || (event === 'rename' && !name.includes('.'))) changed()
      })
      // The folder was removed.
      watcher.on('error', () => watcher.close())
      watcher.on('close', () => watched.delete(folder))
      watched.set(folder, watcher)
    }
  }
}

function changed() {
  clearTimeout(settling)
  settling = setTimeout(() => {
    watchFolders()
    outdated = true
    if (child === undefined) void run()
    else end()
  }, SETTLE_MS)
}

function end() {
  try {
    process.kill(-child.pid, 'SIGTERM')
  } catch (error) {
    // It has ended, and its `exit` event is on the way.
    if (error.code !== 'ESRCH') throw error
  }
}

async function run() {
  do {
    outdated = false
    const begun = performance.now()
    child = spawn(process.execPath, command, { stdio: 'inherit', detached: true })
    const [code] = await once(child, 'exit')
    child = undefined
    const seconds = ((performance.now() - begun) / 1000).toFixed(1)
    const result = outdated ? 'interrupted' : code === 0 ? 'passed' : 'failed'
    console.error(`watch: ${result} after ${seconds} s${outdated ? '' : '; waiting for changes'}`)
  } while (outdated)
}

for (const [signal, number] of Object.entries({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }))
  process.once(signal, () => {
    if (child !== undefined) end()
    process.exit(128 + number)
  })

watchFolders()
await run()
