import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as fc from 'fast-check'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { parseSize } from '../src/config/size.ts'
import { outputFolder } from '../src/log/kept/files.ts'
import type { KeepLimits } from '../src/log/kept/kept-service.ts'
import { type OutputLine, parseLine } from '../src/log/kept/line.ts'
import { OutputKeeper, type OutputKeeperState } from '../src/log/kept/output-keeper.ts'
import { OutputReader, readTail } from '../src/log/kept/output-reader.ts'

const SOURCE = { service: 'web', instance: 'web.1', backend: '01J0000000000000000000WEB1', slot: 'web-1' }
const KEEP = { size: 64 * 1024, files: 1000 }

function scene(
  t: Test,
  limits: KeepLimits | (() => KeepLimits | undefined) = KEEP,
  state?: OutputKeeperState,
) {
  const runtimeDir = mkdtempSync(join(tmpdir(), 'baton-t-'))
  t.teardown(() => rmSync(runtimeDir, { recursive: true, force: true }))
  const log: Record<string, unknown>[] = []
  const logger = pino({}, { write: (line: string) => void log.push(JSON.parse(line) as object as never) })
  const keeperOn = (saved?: OutputKeeperState) =>
    new OutputKeeper(
      { runtimeDir, logger, limits: typeof limits === 'function' ? limits : () => limits },
      saved,
    )
  return { folder: outputFolder(runtimeDir), log, keeper: keeperOn(state), keeperOn }
}

/** The end of a process does not wait for long: on a busy machine, lines could be missing. */
async function finish(keeper: OutputKeeper): Promise<void> {
  if (!(await keeper.pause(LIMIT, LIMIT))) throw new Error('a thread is stuck')
  await keeper.end()
}

async function all(reader: OutputReader): Promise<string[]> {
  const lines: string[] = []
  for await (const { msg } of reader.read()) lines.push(msg)
  return lines
}

/** Everything that is kept. */
async function kept(folder: string): Promise<string[]> {
  const reader = new OutputReader(folder, 'web')
  const lines = await all(reader)
  await reader.close()
  return lines
}

const upTo = (count: number, text = 'line') => Array.from({ length: count }, (_, index) => `${text} ${index}`)

void t.test('sizes', async (t) => {
  t.same(
    ['0', '1B', '64K', '64KB', '64KiB', '4MiB', '1G', '1.5M', '1k', '', 'M', '-1', '9999999999G'].map(
      parseSize,
    ),
    [0, 1, 65_536, 65_536, 65_536, 4_194_304, 2 ** 30, ...Array.from({ length: 6 }, () => undefined)],
  )
})

void t.test(
  'all lines are written once, in order, and a reader follows over every file',
  { timeout: LIMIT },
  async (t) => {
    const { folder, keeper } = scene(t)
    const follower = new OutputReader(folder, 'web')
    const followed: string[] = []
    t.same(await all(follower), [], 'nothing is there yet')
    const lines = upTo(5000, 'é "quoted" \u0000')
    for (let at = 0; at < lines.length; at += 100) {
      keeper.write(SOURCE, 'stdout', lines.slice(at, at + 100))
      if (at % 500 === 0) followed.push(...(await all(follower)))
    }
    t.ok(await keeper.pause(LIMIT, LIMIT))
    followed.push(...(await all(follower)))
    t.same(followed, lines)
    t.same(await kept(folder), lines)
    t.same(await all(follower), [], 'nothing more')
    await follower.close()
    t.ok(readdirSync(folder).length > 10)
    for (const name of readdirSync(folder)) t.ok(statSync(join(folder, name)).size <= KEEP.size, name)
    await keeper.end()
  },
)

void t.test('the last lines, however they lie in files and blocks', { timeout: LIMIT }, async (t) => {
  const length = fc.oneof(fc.nat(80), fc.constantFrom(8_000, 16_384))
  await fc.assert(
    fc.asyncProperty(
      fc.array(length, { maxLength: 60 }),
      fc.nat(70),
      fc.boolean(),
      async (lengths, count, cut) => {
        const { folder, keeper } = scene(t)
        const lines = lengths.map((size, index) => `${index} ${'x'.repeat(size)}`)
        for (const line of lines) keeper.write(SOURCE, 'stderr', [line])
        await finish(keeper)
        const names = lines.length === 0 ? [] : readdirSync(folder).toSorted()
        if (cut && names.length > 0) appendFileSync(join(folder, names.at(-1) as string), '{"time":"cut off')
        const tail = await readTail(folder, 'web', { count, wanted: () => true })
        const expected = count === 0 ? [] : lines.slice(-count)
        const reader = new OutputReader(folder, 'web', tail.end)
        const after = await all(reader)
        await reader.close()
        return (
          JSON.stringify(tail.lines.map(({ msg }) => msg)) === JSON.stringify(expected) && after.length === 0
        )
      },
    ),
    { numRuns: 25 },
  )
  t.pass()
})

void t.test(
  'a line that a killed writer has cut off is skipped, and costs no other',
  { timeout: LIMIT },
  async (t) => {
    const { folder, keeper, keeperOn } = scene(t)
    keeper.write(SOURCE, 'stdout', ['whole'])
    await finish(keeper)
    const [name = ''] = readdirSync(folder)
    appendFileSync(join(folder, name), '{"time":"2026-01-02T03:04')
    const next = keeperOn()
    next.write(SOURCE, 'stdout', ['next'])
    await finish(next)
    t.same(readdirSync(folder), [name], 'the same file goes on')
    t.same(await kept(folder), ['whole', 'next'])
  },
)

void t.test('what is pending crosses an exec', { timeout: LIMIT }, async (t) => {
  const { folder, keeper, keeperOn } = scene(t)
  keeper.write(SOURCE, 'stdout', ['before'])
  t.ok(await keeper.pause(LIMIT, LIMIT))
  keeper.write(SOURCE, 'stdout', upTo(100))
  const state = JSON.parse(JSON.stringify(keeper.state)) as OutputKeeperState
  const next = keeperOn(state)
  next.write(SOURCE, 'stdout', ['after'])
  await finish(next)
  t.same(await kept(folder), ['before', ...upTo(100), 'after'])
})

void t.test('the end waits as long as a slow disk accepts lines', { timeout: LIMIT }, async (t) => {
  // It waited half a second: on a slow machine the last lines of an app were lost.
  const [stall, pause] = [2000, 50]
  const slow = () => {
    const until = performance.now() + pause
    while (performance.now() < until);
    return { size: 100, files: 1000 }
  }
  const { folder, keeper } = scene(t, slow)
  // Each line is a file of its own, and is asked about twice at least.
  const lines = upTo((0.6 * stall) / pause)
  for (const line of lines) keeper.write(SOURCE, 'stdout', [line])
  const from = performance.now()
  await keeper.end({ stall, whole: LIMIT })
  t.ok(performance.now() - from > stall, 'it took longer than a disk may accept nothing')
  t.same(await kept(folder), lines)
})

void t.test(
  'a disk that takes nothing: bounded memory, counted drops, and no pause',
  { timeout: LIMIT },
  async (t) => {
    const { folder, keeper, log } = scene(t)
    // No folder can be created here.
    writeFileSync(folder, '')
    const line = 'x'.repeat(1000)
    for (let count = 0; count < 6000; count++) keeper.write(SOURCE, 'stdout', [line])
    await eventually(() => log.length > 0, 'a failure')
    t.match(log, [{ service: 'web', msg: /cannot be kept; trying again/, reason: /ENOTDIR/ }])
    t.ok(keeper.dropped > 1000, `${keeper.dropped} lines`)
    await eventually(() => !keeper.congested, 'it is not waited for')
    unlinkSync(folder)
    await eventually(() => log.length > 1, 'room again')
    t.match(log[1], { service: 'web', lines: keeper.dropped, reason: 'ENOTDIR' })
    keeper.write(SOURCE, 'stdout', ['later'])
    t.ok(await keeper.pause(LIMIT, LIMIT))
    await keeper.end()
    const lines = await kept(folder)
    t.equal(lines.length, 6001 - keeper.dropped)
    t.equal(lines.at(-1), 'later')
  },
)

void t.test(
  'a service that is no longer kept: what is pending is written, and nothing else',
  { timeout: LIMIT },
  async (t) => {
    let limits: KeepLimits | undefined = KEEP
    const { folder, keeper } = scene(t, () => limits)
    keeper.write(SOURCE, 'stdout', ['kept'])
    limits = undefined
    keeper.write(SOURCE, 'stdout', ['not kept'])
    await keeper.end()
    t.same(await kept(folder), ['kept'])
  },
)

void t.test(
  'the oldest file goes first, and a removed file costs its lines alone',
  { timeout: LIMIT },
  async (t) => {
    const { folder, keeper } = scene(t, { size: KEEP.size, files: 3 })
    const lines = upTo(3000, 'x'.repeat(50))
    for (const line of lines) keeper.write(SOURCE, 'stdout', [line])
    t.ok(await keeper.pause(LIMIT, LIMIT))
    keeper.proceed()
    t.equal(readdirSync(folder).length, 3)
    const left = await kept(folder)
    t.same(left, lines.slice(-left.length))
    rmSync(folder, { recursive: true })
    keeper.write(SOURCE, 'stdout', ['after'])
    await keeper.end()
    t.same(await kept(folder), ['after'])
  },
)

void t.test('only lines of ours are read', async (t) => {
  const line: OutputLine = { ...SOURCE, time: '2026-01-02T03:04:05.678Z', stream: 'stdout', msg: 'x' }
  t.same(parseLine(JSON.stringify(line)), line)
  for (const text of ['', '{', 'null', '5', '[]', '{"msg":5,"time":""}']) t.equal(parseLine(text), undefined)
})
