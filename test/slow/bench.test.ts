import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { comparison } from '../../bench/report/comparison.mjs'
import { markers, measurementsPage, PERFORMANCE, withPart } from '../../bench/report/page.mjs'
import { interleaved } from '../../bench/rounds.mjs'
import { interval95, median, pairedRatios, quantile, summary } from '../../bench/statistics.mjs'
import { eventually } from '../support/eventually.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { LIMIT } from '../support/limits.ts'

// The statistics of `npm run bench -- compare`, and one small run of it.

void t.test('medians and quantiles, interpolated between two samples', async (t) => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([4, 1, 3, 2]), 2.5)
  t.equal(quantile([10, 20, 30, 40, 50], 0.25), 20)
  t.equal(quantile([1, 2], 0.9), 1.9)
  t.same(summary([5, 9, 1]), { median: 5, least: 1, most: 9 })
})

void t.test('ratios are taken round by round', async (t) => {
  t.same(pairedRatios([2, 9], [1, 3]), [2, 3])
  t.throws(() => pairedRatios([1, 2], [1]), /2 rounds cannot be paired with 1/)
})

void t.test('the 95 % interval of paired ratios', async (t) => {
  t.equal(interval95([1.5]), undefined, 'one ratio does not scatter')
  const interval = (ratios: number[]) => interval95(ratios) ?? { low: Number.NaN, high: Number.NaN }
  // Logarithms 0 and 2: mean 1, deviation sqrt(2), Student's t for one degree of freedom 12.706.
  const { low, high } = interval([1, Math.E ** 2])
  t.ok(Math.abs(Math.log(low) - (1 - 12.706)) < 1e-9)
  t.ok(Math.abs(Math.log(high) - (1 + 12.706)) < 1e-9)
  const same = interval([1.1, 1.1, 1.1])
  t.ok(Math.abs(same.low - 1.1) < 1e-9 && Math.abs(same.high - 1.1) < 1e-9)
  const inverse = interval([1 / 1.2, 1 / 1.3, 1 / 1.25])
  const straight = interval([1.2, 1.3, 1.25])
  t.ok(Math.abs(inverse.low * straight.high - 1) < 1e-9, 'a ratio and its inverse say the same')
})

void t.test('rounds are interleaved, and begin with another peer each time', async (t) => {
  const order: string[] = []
  const peers = ['Baton', 'b', 'c'].map((name) => ({ name }))
  const leftOut: string[] = []
  const samples = await interleaved({
    peers,
    rounds: 3,
    sample: async ({ name }) => order.push(name),
    leaveOut: (name) => leftOut.push(name),
  })
  t.same(order.join(' '), 'Baton b c b c Baton c Baton b')
  t.same([...samples.keys()], ['Baton', 'b', 'c'])
  t.same(leftOut, [])
})

void t.test('a failing peer is left out with its samples; Baton fails the run', async (t) => {
  const peers = [{ name: 'Baton' }, { name: 'b' }]
  const leftOut: string[] = []
  const failing = (failed: string) => {
    let asked = 0
    return interleaved({
      peers,
      rounds: 2,
      sample: async ({ name }) => {
        asked += 1
        if (name === failed && asked > 2) throw new Error('3 of 5 failed')
        return asked
      },
      leaveOut: (name, reason) => leftOut.push(`${name}: ${reason}`),
    })
  }
  t.same([...(await failing('b')).keys()], ['Baton'])
  t.same(leftOut, ['b: 3 of 5 failed'])
  await t.rejects(failing('Baton'), { message: '3 of 5 failed' })
})

void t.test('targets are judged by the median of the paired ratios', async (t) => {
  const rows = (...values: number[]) => values.map((value) => ({ value }))
  const judge = (baton: number[], other: number[], target: object) => {
    const samples = new Map([
      ['Baton', rows(...baton)],
      ['other', rows(...other)],
    ])
    const targets = [{ what: 'it', against: 'other', ...target }]
    const options = { title: '', note: '', unit: 'us', samples, metric: 'value', targets }
    return comparison({ ...options, withInterval: true }).verdicts[0]
  }
  t.match(judge([10, 12, 11], [10, 10, 10], { atLeast: 1.1, stretch: 1.2 }), {
    measured: '1.10 (1.00 to 1.20)',
    target: 'at least 1.1, stretch 1.2',
    result: 'met',
  })
  t.match(judge([13], [10], { atLeast: 1.1, stretch: 1.2 }), { result: 'met, stretch too' })
  t.match(judge([13], [10], { atMost: 1.2 }), { result: 'not met' })
  t.match(judge([12], [10], { atMost: 1.2 }), { result: 'met' })
  t.match(judge([10, 10.01], [10.01, 10], { includesOne: true }), { result: 'met' })
  t.match(judge([10, 11], [11, 10], { includesOne: true }), { result: 'too wide to tell' })
  t.match(judge([8, 8.01], [10, 10], { includesOne: true }), { result: 'not met' })
  t.match(judge([8], [10], { includesOne: true }), { result: 'needs more rounds' })
})

void t.test('a run writes between the markers of its part, and nowhere else', async (t) => {
  const [begin, end] = markers('it')
  const page = `# Title\n\n${begin}\nold\n${end}\n\nprose\n`
  const once = withPart(page, 'it', 'new\n')
  t.equal(once, `# Title\n\n${begin}\n\nnew\n\n${end}\n\nprose\n`)
  t.equal(withPart(once, 'it', 'new'), once)
  for (const bad of ['', `${end}\n${begin}`, `${page}${page}`, begin]) {
    t.throws(() => withPart(bad, 'it', 'new'), /the page must contain/)
  }
  for (const line of ['20', '24']) {
    for (const part of [`targets on Node ${line}`, `starts on Node ${line}`])
      t.doesNotThrow(() => withPart(readFileSync(PERFORMANCE, 'utf8'), part, 'new'))
    t.doesNotThrow(() => withPart(readFileSync(measurementsPage(line), 'utf8'), 'measured', 'new'))
  }
})

/** Every process of a run inherits its environment, which contains this folder. */
function processesOf(temporary: string): string[] {
  return readdirSync('/proc').filter((entry) => {
    try {
      return /^\d+$/.test(entry) && readFileSync(`/proc/${entry}/environ`, 'utf8').includes(temporary)
    } catch {
      // It has exited meanwhile, or belongs to another user.
      return false
    }
  })
}

const SMALL_RUN = '--quick --only connections --peer Baton --peer cluster --connections 500 --rounds 2'.split(
  ' ',
)

void t.test(
  'one small run measures Baton beside cluster, and leaves nothing behind',
  { timeout: LIMIT },
  async (t) => {
    const raw = join(temporaryFolder(t), 'raw.json')
    const before = readFileSync(join(root, 'docs/explanation/performance.md'), 'utf8')
    const temporary = temporaryFolder(t)
    const args = [join(root, 'bench/run.mjs'), ...SMALL_RUN, '--json', raw]
    const run = new Program(t, process.execPath, args, { env: { TMPDIR: temporary } })
    t.match(await run.exited, { code: 0 }, run.lines.join('\n'))
    const text = run.lines.join('\n')
    t.match(text, /^\| Baton +\| +[\d,]+ \|/m)
    t.match(text, /^\| cluster +\| +[\d,]+ \|.* at least 1.3, stretch 1.7 \| (not )?met/m)
    t.match(text, /^nothing written|; nothing written/m)
    t.equal(readFileSync(join(root, 'docs/explanation/performance.md'), 'utf8'), before)
    const { measures } = JSON.parse(readFileSync(raw, 'utf8'))
    for (const peer of ['Baton', 'cluster']) {
      t.equal(measures.connections[peer].length, 2, `${peer} in both rounds`)
      for (const { perSecond, backend } of measures.connections[peer]) t.ok(perSecond > 0 && backend > 0)
    }
    await eventually(
      () => processesOf(temporary).length === 0,
      () => processesOf(temporary).join(' '),
    )
    t.same(readdirSync(temporary), [])
  },
)

void t.test('a run that is interrupted leaves nothing behind either', { timeout: LIMIT }, async (t) => {
  const temporary = temporaryFolder(t)
  const args = [join(root, 'bench/run.mjs'), ...SMALL_RUN, '--rounds', '1000']
  const run = new Program(t, process.execPath, args, { env: { TMPDIR: temporary } })
  await eventually(() => run.lines.some((line) => line.endsWith('s: connections')), 'the first measure')
  t.ok(processesOf(temporary).length > 4, 'peers are there')
  run.kill('SIGINT')
  t.match(await run.exited, { code: 130 })
  await eventually(
    () => processesOf(temporary).length === 0,
    () => processesOf(temporary).join(' '),
  )
  t.same(readdirSync(temporary), [])
})

void t.test('wrong usage is told apart from a failure', async (t) => {
  for (const [args, said] of [
    [['--only', 'latnecy'], /no measure "latnecy"; there are: connections, latency/],
    [['--rounds', 'many'], /--rounds is many/],
  ] as const) {
    const run = new Program(t, process.execPath, [join(root, 'bench/run.mjs'), ...args])
    t.match(await run.exited, { code: 2 })
    t.match(run.lines.join('\n'), said)
  }
})
