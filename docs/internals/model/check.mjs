// Checks handoff.pml and handback.pml with spin: the rules hold, and without any one of them something breaks.
//
//   node docs/internals/model/check.mjs [--quick] [--only TEXT] [--json] [--trace] [--write]
//
// --quick skips the largest searches, --trace prints each counterexample, --write updates the results in README.md.
// Exit codes: 0 every verdict is the expected one, 1 one is not, 2 usage, or spin and gcc are not installed.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'

const here = import.meta.dirname
const readme = join(here, 'README.md')

/** Child processes that are running. None of them outlives this process. */
const running = new Set()

/** Like promisify(execFile): rejects when the process fails or is killed. */
async function execute(...args) {
  const done = promisify(execFile)(...args)
  running.add(done.child)
  try {
    return await done
  } finally {
    running.delete(done.child)
  }
}

const HOLDS = 'holds'
const OWNERS = 'two owners'
const OFFER = "another client's offer"
const LOST = 'lost silently'
const TWICE = 'two outcomes'
const WAITS = 'waits indefinitely'
const TOUCHED = 'touched by the broker'
const BYTE = 'a byte is lost'
const FLAGS = 'the flags of the giver'
const CUT_OFF = 'cut off without a fault'

/** pan's error messages; the texts are those of the assertions in the models. */
const PROPERTIES = [
  [/assertion violated \(owner\[/, OWNERS],
  [/assertion violated \(holds\[/, OFFER],
  [/assertion violated \(\(conn\[/, TWICE],
  [/assertion violated \( !\(brokerUp\)\|\|\(\(conn\[/, LOST],
  [/acceptance cycle/, WAITS],
  [/assertion violated \(has\[.*<=1\)/, WAITS],
  [/assertion violated \(has\[/, OWNERS],
  [/assertion violated \(\(has\[/, TOUCHED],
  [/assertion violated \(+over\[/, LOST],
  [/assertion violated \(buffer\[/, BYTE],
  [/assertion violated +!\(flagged\[/, FLAGS],
  [/assertion violated 0$/, CUT_OFF],
]

/**
 * `exhaustive` searches depth first and stores every state. `shortest` searches breadth first and stops at the nearest
 * counterexample; `nearer` finds an equally short one with a tenth of the states, by depth-first searches of decreasing depth.
 * `liveness` looks for cycles under weak fairness. Short searches would spend most of their time in gcc's optimiser: those
 * that end at once are compiled without optimisation, those that take seconds with the cheapest level.
 */
const MODES = {
  exhaustive: { compile: ['-Og', '-DSAFETY'], run: ['-m5000000', '-w20'] },
  shortest: { compile: ['-O0', '-DSAFETY', '-DBFS'], run: ['-w22'] },
  nearer: { compile: ['-O0', '-DSAFETY', '-DREACH'], run: ['-i', '-m300', '-w20'] },
  liveness: { compile: ['-Og', '-DNFAIR=4'], run: ['-a', '-f', '-m200000', '-w20'] },
}

/** For searches that take minutes. */
const LARGE = { compile: ['-O2'], run: ['-w24'] }

const one = { NC: 1, SLOTS: 1 }
const live = { LIVENESS: true, ...one }
const served = { ...live, GOOD: true }

/** One rule removed. Only a second owner counts, and no client is rejected, so the two owners found are two backends. */
function without(rule, options = {}) {
  const { size = one, property = OWNERS, define = `NO_${rule}` } = options
  const defines = { ...size, [define]: true }
  if (property === OWNERS || property === OFFER) defines['OWNERS_ONLY'] = true
  return { name: `without ${rule}`, mode: 'shortest', defines, expected: property, quick: true }
}

/** Handing back, small: all bytes are there from the start, and one process dies. */
const small = { EARLY: true, DEATHS: 1 }
const HANDBACK = 'handback.pml'

/** One rule of handing back removed. */
function withoutHandBack(rule, options = {}) {
  const { property = OWNERS, defines = small } = options
  const owners = property === OWNERS && { OWNERS_ONLY: true }
  return {
    name: `without ${rule}`,
    mode: 'shortest',
    defines: { ...defines, ...owners, [`NO_${rule}`]: true },
    expected: property,
    quick: true,
    model: HANDBACK,
    run: ['-m180'],
  }
}

const RUNS = [
  // All rules, safety: no assertion fails, and no process ends up stuck where it should not.
  {
    name: 'all rules, two clients',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 1 },
    expected: HOLDS,
    quick: true,
  },
  {
    name: 'all rules, two offers at a time',
    mode: 'exhaustive',
    defines: { NC: 1, SLOTS: 2 },
    expected: HOLDS,
    quick: true,
  },
  {
    name: 'all rules, no silent backend is waited for',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 1, MAXSTUCK: 0 },
    expected: HOLDS,
  },
  {
    name: 'all rules, backends register again',
    mode: 'exhaustive',
    defines: { NC: 1, SLOTS: 2, REJOIN: 1 },
    expected: HOLDS,
  },
  {
    name: 'all rules, three offers at a time',
    mode: 'exhaustive',
    defines: { NC: 1, SLOTS: 3 },
    expected: HOLDS,
  },
  {
    name: 'all rules, two clients, two offers at a time',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 2 },
    expected: HOLDS,
    // Lossless compression; states are compared in full, not by hash.
    compile: ['-O2', '-DCOLLAPSE'],
    run: ['-w27'],
  },

  // One rule removed at a time.
  without('ACK_BEFORE_TOUCH'),
  without('REROUTE_ONLY_ON_PROOF'),
  without('READ_CONTROL_TO_END'),
  without('BACKEND_LETS_GO_FIRST'),
  without('BROKER_LETS_GO_FIRST'),
  without('NACK_AFTER_CLOSE'),
  without('NEVER_PEEK', { define: 'PEEK_ALLOWED' }),
  without('TOKEN_MATCH', { size: { NC: 2, SLOTS: 2 }, property: OFFER }),
  without('RETURN_AT_END', { property: LOST }),
  without('LATE_ACK_IGNORED', { size: { ...one, MAXSTUCK: 0 }, property: TWICE }),

  // Redundant protection: nothing depends on it while the closing rule is kept, and it cannot replace that rule.
  without('LANE_EOF', { property: HOLDS }),
  {
    name: 'without LANE_EOF, two clients',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 1, NO_LANE_EOF: true },
    expected: HOLDS,
  },
  {
    name: 'control closed before the lane is read back, but given up',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 1, BROKER_CLOSES_EARLY: true },
    expected: HOLDS,
  },
  {
    name: 'the same, without LANE_EOF either',
    mode: 'exhaustive',
    defines: { NC: 2, SLOTS: 1, BROKER_CLOSES_EARLY: true, NO_LANE_EOF: true },
    expected: HOLDS,
  },

  // Liveness.
  {
    name: 'one can serve: served',
    mode: 'liveness',
    defines: { ...served, SLOTS: 2 },
    expected: HOLDS,
    quick: true,
  },
  {
    name: 'all are down, one comes back: served',
    mode: 'liveness',
    defines: { ...served, DOWN: true, REJOIN: 1 },
    expected: HOLDS,
    quick: true,
  },
  {
    name: 'no backend need serve, no silent backend is waited for: settled',
    mode: 'liveness',
    defines: { ...live, MAXSTUCK: 0 },
    expected: HOLDS,
    quick: true,
  },
  {
    name: 'no backend need serve: settled, or taken',
    mode: 'liveness',
    defines: live,
    expected: HOLDS,
  },
  {
    name: 'the same, two offers at a time',
    mode: 'liveness',
    defines: { ...live, SLOTS: 2 },
    expected: HOLDS,
  },
  {
    name: 'the same, backends register again',
    mode: 'liveness',
    defines: { ...live, REJOIN: 1 },
    expected: HOLDS,
  },
  {
    name: 'without ACK_DEADLINE',
    mode: 'liveness',
    defines: { ...served, NO_ACK_DEADLINE: true },
    expected: WAITS,
    compile: ['-O0'],
    quick: true,
  },
  {
    name: 'without ASK_EACH_ONCE',
    mode: 'liveness',
    defines: { ...served, NO_ASK_EACH_ONCE: true },
    expected: WAITS,
    compile: ['-O0'],
    quick: true,
  },
  {
    name: 'all are down, none comes back',
    mode: 'liveness',
    defines: { ...served, DOWN: true },
    expected: WAITS,
    compile: ['-O0'],
    quick: true,
  },

  // Handing back.
  {
    name: 'handing back, all rules',
    mode: 'exhaustive',
    defines: small,
    expected: HOLDS,
    quick: true,
    model: HANDBACK,
  },
  {
    name: 'handing back, two deaths, bytes at any time',
    mode: 'exhaustive',
    defines: { DEATHS: 2 },
    expected: HOLDS,
    model: HANDBACK,
  },
  {
    name: 'handing back, two clients',
    mode: 'exhaustive',
    defines: { ...small, NC: 2, BYTES: 1, WINDOW: 2 },
    expected: HOLDS,
    model: HANDBACK,
    compile: ['-O2', '-DCOLLAPSE'],
    run: ['-w27'],
  },
  {
    name: 'handing back, a descriptor too many on the lane',
    mode: 'exhaustive',
    defines: { ...small, NC: 2, BYTES: 1, STRAYS: 1, DEATHS: 0 },
    expected: HOLDS,
    model: HANDBACK,
    compile: ['-O2', '-DCOLLAPSE'],
    run: ['-w27'],
  },
  {
    name: 'handing back, a reload',
    mode: 'exhaustive',
    defines: { ...small, NW: 2 },
    expected: HOLDS,
    model: HANDBACK,
    compile: ['-O2', '-DCOLLAPSE'],
    run: ['-w27'],
  },
  withoutHandBack('TAKEN_BEFORE_OFFER'),
  withoutHandBack('ADOPT_AGAIN_ONLY_WITHOUT_TAKEN'),
  withoutHandBack('HANDBACK_TOKEN_MATCH', { defines: { ...small, NC: 2, BYTES: 0, STRAYS: 1, DEATHS: 0 } }),
  withoutHandBack('GIVER_KEEPS_UNTIL_TAKEN', { property: LOST }),
  withoutHandBack('GIVE_BACK_AFTER_CLOSE', { property: TOUCHED }),
  withoutHandBack('RESET_FLAGS', { property: FLAGS }),
  withoutHandBack('HANDBACK_LANE_FIRST', { property: CUT_OFF }),
  withoutHandBack('LET_GO_IN_ONE_STEP', { property: BYTE }),
  withoutHandBack('PREFIX_GOES_ALONG', { property: BYTE }),
]

function flags(defines) {
  return Object.entries(defines).map(([name, value]) => (value === true ? `-D${name}` : `-D${name}=${value}`))
}

/** The number of a line of pan's report, or NaN. */
function figure(text, pattern) {
  return Number(pattern.exec(text)?.[1] ?? Number.NaN)
}

/** pan's finding. Anything but a completed search is not a verdict. */
function verdictOf(text) {
  const failure = /^pan:1: (.*) \(at depth/m.exec(text)?.[1]
  if (failure !== undefined) return PROPERTIES.find(([pattern]) => pattern.test(failure))?.[1] ?? failure
  const complete =
    /errors: 0$/m.test(text) &&
    !/max search depth too small|MEMLIM|out of memory|Search not completed/.test(text)
  return complete ? HOLDS : 'not completed'
}

/** The steps of all processes up to the failure, one line each, from the printf statements of the model. */
async function story(model, defines, cwd) {
  const { stdout } = await execute('spin', ['-t', '-k', `${model}.trail`, ...flags(defines), model], {
    cwd,
  })
  const steps = stdout.split('\n').map((line) => line.trim())
  return steps.filter((line) => /^(broker|backend \d) /.test(line))
}

function quickMode(mode, expected) {
  if (mode !== 'shortest') return mode
  return expected === HOLDS ? 'exhaustive' : 'nearer'
}

async function check({
  name,
  mode: wanted,
  defines,
  expected,
  quick,
  model: file = 'handoff.pml',
  ...extra
}) {
  const mode = options.quick ? quickMode(wanted, expected) : wanted
  const folder = await mkdtemp(join(tmpdir(), 'baton-model-'))
  const started = performance.now()
  try {
    // A copy, because spin and pan name their files after it and write them next to it.
    const model = join(folder, file)
    await writeFile(model, await readFile(join(here, file)))
    const parts = [MODES[mode], quick ? {} : LARGE, extra]
    const compile = parts.flatMap((part) => part.compile ?? [])
    const run = parts.flatMap((part) => part.run ?? [])
    const inFolder = { cwd: folder, maxBuffer: 64 * 1024 * 1024 }
    await execute('spin', ['-a', ...flags(defines), model], inFolder)
    await execute(
      'gcc',
      ['-w', `-DMEMLIM=${quick ? 3500 : 14_000}`, ...compile, '-o', 'pan', 'pan.c'],
      inFolder,
    )
    // pan exits with 0 whatever it finds; a signal or an unknown option rejects.
    const { stdout: report } = await execute('./pan', run, inFolder)
    const verdict = verdictOf(report)
    return {
      name,
      mode,
      defines,
      expected,
      verdict,
      states: figure(report, /^\s*(\S+) states, stored/m),
      depth: figure(report, /depth reached (\d+)/),
      mebibytes: Math.round(figure(report, /^\s*(\S+)\s+total actual memory usage/m)),
      seconds: Math.round((performance.now() - started) / 100) / 10,
      steps: verdict === HOLDS || wanted !== 'shortest' ? [] : await story(model, defines, folder),
      report,
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

function table(results) {
  const rows = results.map(({ name, mode, defines, states, depth, mebibytes, seconds, verdict }) => {
    const size = Object.entries(defines).filter(([, value]) => value !== true)
    const sizes = size.map(([key, value]) => `${key}=${value}`).join(' ')
    return `| ${name} | ${mode} | ${sizes} | ${states.toLocaleString('en')} | ${depth.toLocaleString('en')} | ${mebibytes} | ${seconds} | ${verdict} |`
  })
  return [
    '| run | search | size | states | depth | MiB | seconds | verdict |',
    '| --- | --- | --- | --: | --: | --: | --: | --- |',
    ...rows,
  ].join('\n')
}

function traces(results) {
  const found = results.filter(({ steps }) => steps.length > 0)
  return found
    .map(
      ({ name, verdict, steps }) => `${name}: ${verdict}\n\n${steps.map((step) => `    ${step}`).join('\n')}`,
    )
    .join('\n\n')
}

const BEGIN = '<!-- results: written by check.mjs --write -->'
const END = '<!-- end of results -->'

async function publish(results) {
  const { stdout } = await execute('spin', ['-V'])
  const old = await readFile(readme, 'utf8')
  const [before, rest] = old.split(BEGIN)
  const after = rest?.split(END)[1]
  if (after === undefined) throw new Error(`${readme} has no block between ${BEGIN} and ${END}`)
  const unit =
    'States and depth are those of pan; a search that ends at a counterexample counts what it had seen by then. Seconds include compiling.'
  const block = [
    `${stdout.trim()}. ${unit}`,
    table(results),
    'The shortest counterexamples:',
    traces(results),
  ].join('\n\n')
  await writeFile(readme, `${before}${BEGIN}\n\n${block}\n\n${END}${after}`)
}

async function isInstalled(command, argument) {
  try {
    await execute(command, [argument])
    return true
  } catch (error) {
    if (error.code === 'ENOENT') return false
    throw error
  }
}

function usage(message) {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

let options
try {
  const boolean = { type: 'boolean', default: false }
  const only = { type: 'string', default: '' }
  options = parseArgs({
    options: { quick: boolean, json: boolean, trace: boolean, write: boolean, only },
  }).values
} catch (error) {
  usage(error.message)
}
if (options.write && (options.quick || options.only))
  usage('--write wants all runs: leave out --quick and --only')
if (!((await isInstalled('spin', '-V')) && (await isInstalled('gcc', '--version'))))
  usage('spin and gcc are needed: apt-get install spin gcc')

// A search may take minutes. Killing it makes its run fail, which removes its folder.
for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => running.forEach((child) => child.kill()))

function tell({ name, verdict, expected, states, seconds, steps, report }) {
  const mark = verdict === expected ? 'ok    ' : 'NOT OK'
  process.stdout.write(`${mark} ${name}: ${verdict} (${states} states, ${seconds} s)\n`)
  if (verdict !== expected) process.stdout.write(`expected: ${expected}\n${report}\n`)
  else if (options.trace) process.stdout.write(steps.map((step) => `         ${step}\n`).join(''))
}

const runs = RUNS.filter(({ name, quick }) => (quick || !options.quick) && name.includes(options.only))
const results = []
const queue = runs.entries()
async function work() {
  for (const [index, run] of queue) {
    results[index] = await check(run)
    if (!options.json) tell(results[index])
  }
}
// Small searches run two at a time; those that fill the memory or whose figures are published run alone.
await Promise.all(options.quick ? [work(), work()] : [work()])
if (results.length === 0) usage(`no run has "${String(options.only)}" in its name`)
if (options.json)
  process.stdout.write(`${JSON.stringify(results, (key, value) => (key === 'report' ? undefined : value))}\n`)
const good = results.every(({ verdict, expected }) => verdict === expected)
if (options.write && good) await publish(results)
process.exitCode = good ? 0 : 1
