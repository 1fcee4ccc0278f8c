import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'

const EBADF = 9
const ENOENT = 2

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}): string {
  const { stdout, stderr, status, signal } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  if (status !== 0) throw new Error(`exit code ${status}, signal ${signal}: ${stderr}`)
  return stdout
}

void t.test('both libraries do the same', async (t) => {
  for (const library of ['ffi-rs', 'koffi']) {
    const file = join(import.meta.dirname, 'fixtures/foreign-functions.mjs')
    t.same(
      JSON.parse(run([file, library])),
      {
        distinct: 1000,
        closed: 1000,
        closedAgain: -EBADF,
        failures: [
          [-1, EBADF],
          [-1, EBADF],
          [-1, 'not told'],
        ],
        missing: [-1, ENOENT],
        found: 'not told',
        copied: 'copied',
      },
      library,
    )
  }
})

void t.test('the library that a process was started with', async (t) => {
  const index = new URL('../dist/index.js', import.meta.url).href
  const code = `import(${JSON.stringify(index)})
    .then(({ supported, localAddress }) => {
      console.log(supported)
      localAddress(-1)
    })
    .catch(({ code, message }) => console.log(code, message))`
  for (const library of ['ffi-rs', 'koffi'])
    t.match(run(['-e', code], { BATON_FFI: library }), /^true\nEBADF /, library)
  t.match(
    run(['-e', code], { BATON_FFI: 'libffi' }),
    /^false\nBATON_ERR_UNSUPPORTED_PLATFORM .*BATON_FFI is "libffi", and may be ffi-rs or koffi/,
  )
})
