// Runs test files, each in its own process, three more at a time than there are processors. `npm test` runs them all,
// `npm test -- FILE...` some of them, `npm test -w packages/NAME` those of a package. The output is TAP; it ends with the
// totals, `# { total: 12, pass: 12 }`.
//
// Four things are done here because no single test can do them:
// - whatever is missing or out of date is installed and built first, so that no test runs against a stale build;
// - before the first test, a broker's start is timed: tests count their limits in such starts (support/limits.ts);
// - a file fails if a process that it started, or a file in its temporary folder, is left when it has ended;
// - whatever ends this process, SIGKILL included, the run's processes and folders are removed (leftovers.mjs).
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { endAll, MARK, processesOf } from './leftovers.mjs'
import { timeOneStart } from './one-start.mjs'

// A run within a test uses the build of the outer run.
if (process.env[MARK] === undefined) await import('../../scripts/setup.mjs')
// The setup may have just installed it.
const { default: t } = await import('tap')

/** Time limit of a file, in starts of a broker: some minutes if a start takes a second. */
const STARTS_FOR_A_FILE = 300

/** At least, in ms: some files wait for fixed times, such as the drains of an old version. */
const LEAST_LIMIT_MS = 600_000

const root = fileURLToPath(new URL('../..', import.meta.url))
const here = (name) => fileURLToPath(new URL(name, import.meta.url))

/** Folders whose tests run by default: in the folder of a package, only its own. */
function folders() {
  const all = readdirSync(join(root, 'packages')).map((name) => join('packages', name, 'test'))
  const own = all.filter((folder) => join(root, dirname(folder)) === process.cwd())
  return own.length > 0 ? own : ['test', ...all]
}

/** The files that `npm test` runs. Files in other folders must be named. */
function suite() {
  return folders().flatMap((folder) =>
    readdirSync(join(root, folder))
      .filter((name) => name.endsWith('.test.ts'))
      .map((name) => join(folder, name)),
  )
}

const STARTS = /\b(start[A-Z]\w*|spawn|fork|new \w*(Program|AppRun|Terminal|Tour))\(|\.start\(/g

/** Starting programs takes the most time. */
function startsIn(file) {
  return readFileSync(join(root, file), 'utf8').match(STARTS)?.length ?? 0
}

/** Files that take longer than others with as many starts in their text: they start programs in loops, or put load on them. */
const LONG = [
  'test/migrate-ws.test.ts',
  'test/reload.test.ts',
  'test/grpc.test.ts',
  'test/replace.test.ts',
  'test/tls-sessions.test.ts',
  'test/routes.test.ts',
  'test/scale.test.ts',
  'test/migrate-socket-io.test.ts',
  'packages/backend-sdk/test/register.test.ts',
  'test/registration.test.ts',
  'test/hostile-broker.test.ts',
  'test/files-on-disk.test.ts',
  'test/releases.test.ts',
  'packages/native-sendmsg/test/ring.test.ts',
]

/** The longest go first, so that none is left alone at the end. */
function byLength(a, b) {
  return Number(LONG.includes(b)) - Number(LONG.includes(a)) || startsIn(b) - startsIn(a)
}

/** A process costs more than most files that start none, so those of a folder share one. */
function grouped(files) {
  const isLight = (file) => startsIn(file) === 0
  const alone = files.filter((file) => !isLight(file)).map((file) => ({ name: file, files: [file] }))
  const light = files.filter(isLight)
  const together = [...new Set(light.map(dirname))].map((folder) => {
    const members = light.filter((file) => dirname(file) === folder)
    return { name: `${folder}, ${members.length} files`, files: members }
  })
  return [...together, ...alone]
}

/** The path of a named file, relative to the root. It may be given relative to the working directory, or to the root. */
function located(file) {
  const path = existsSync(resolve(file)) ? resolve(file) : resolve(root, file)
  return relative(root, path)
}

const named = process.argv.slice(2).map(located)
const missing = named.filter((file) => !existsSync(join(root, file)))
if (missing.length > 0) {
  console.error(`no such test file: ${missing.join(', ')}`)
  process.exit(2)
}
const jobs =
  named.length > 0
    ? named.map((file) => ({ name: file, files: [file] }))
    : grouped(suite().toSorted(byLength))

// The files have their own limits, and on a busy machine the first start alone may exceed tap's.
t.setTimeout(0)

// Backends of another user need access to the folders that tests create for them.
const folder = mkdtempSync(join(tmpdir(), 'baton-test-'))
chmodSync(folder, 0o711)
const run = basename(folder)
const sweeper = spawn(process.execPath, [here('leftovers.mjs'), run, folder], {
  stdio: ['pipe', 'ignore', 'inherit'],
  detached: true,
})
t.teardown(async () => {
  sweeper.stdin.end()
  await once(sweeper, 'exit')
})

/**
 * @param {string} name of the file or group, within this run
 * @param {boolean} isOffline whether none of its programs speaks to another machine. Node 20 reads the certificates that NODE_EXTRA_CA_CERTS names
 *   as it starts, whether they are used or not: with those of Debian, this is most of the processor time of an empty program
 *   (https://github.com/nodejs/node/issues/40524).
 */
function environment(name, isOffline) {
  return {
    ...process.env,
    [MARK]: `${run}.${name}`,
    TMPDIR: join(folder, name),
    TMP: undefined,
    TEMP: undefined,
    // Compiled code of the programs (Node 22 and later): one folder for the run, and not the user's.
    XDG_CACHE_HOME: join(folder, 'cache'),
    CACHE_DIRECTORY: undefined,
    ...(isOffline && { NODE_EXTRA_CA_CERTS: undefined }),
  }
}

/** Some in other folders install packages. */
function isInSuite(file) {
  return ['test', 'packages'].includes(file.split('/').at(0)) && !/^test\/.*\//.test(file)
}

// A nested run uses the measurement of the outer one.
const { TEST_START_MS: measured = await timeOneStart(join(folder, 'start'), environment('start', true)) } =
  process.env
const start = Number(measured)
t.comment(`a start takes ${Math.round(start)} ms; ${jobs.length} processes`)
const limit = Math.max(start * STARTS_FOR_A_FILE, LEAST_LIMIT_MS)

// Most files keep a processor busy, and some only wait for deadlines: with three more of them, the processors are seldom idle.
t.jobs = availableParallelism() + 3
for (const [index, job] of jobs.entries()) {
  const name = `f${index}`
  const env = {
    ...environment(name, job.files.every(isInSuite)),
    TEST_START_MS: String(start),
    TEST_FILES: JSON.stringify(job.files.map((file) => resolve(root, file))),
    TAP_TIMEOUT: String(Math.ceil(limit / 1000)),
  }
  mkdirSync(env.TMPDIR, { mode: 0o711 })
  void t.test(job.name, { buffered: true }, async (t) => {
    // `env -u`: the coverage hooks that the runner's library passes to its children double a file's cost.
    const command = [
      '-u',
      'NODE_OPTIONS',
      process.execPath,
      `--import=${here('strip-types.mjs')}`,
      job.files.length > 1 ? here('group.mjs') : resolve(root, job.files[0]),
    ]
    await t.spawn('env', command, { name: 'tests', cwd: root, env, timeout: limit })
    const left = await whatIsLeft(env)
    if (left.length > 0) t.fail(`left behind: ${left.join(', ')}`)
  })
}

/**
 * A killed process may take a moment to exit, and longer if its machine is busy; what is left after that was forgotten by the test, and is killed
 * here. The time costs something only then.
 */
async function whatIsLeft({ [MARK]: mark, TMPDIR: place }) {
  const patience = performance.now() + Math.max(10 * start, 15_000)
  let processes = processesOf(mark)
  while (processes.length > 0 && performance.now() < patience) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    processes = processesOf(mark)
  }
  await endAll(mark)
  return [...processes.map(({ pid, command }) => `process ${pid} ${command}`), ...readdirSync(place)]
}
