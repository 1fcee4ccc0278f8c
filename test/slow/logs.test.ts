import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { batonCommand } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import {
  ascending,
  ask,
  logsOf,
  numbersIn,
  outputFiles,
  parsed,
  startPrinting,
  upTo,
} from '../support/kept-logs.ts'
import { LIMIT } from '../support/limits.ts'
import { onlyWorker, reload } from '../support/operator.ts'
import { Program } from '../support/process.ts'
import { signal } from '../support/signal.ts'

// No line of managed backends is lost or kept twice, whatever rotates, reloads or dies.

const SIZE = 64 * 1024

void t.test('under load: rotation, a reload, deaths of worker and master', { timeout: LIMIT }, async (t) => {
  const broker = await startPrinting(t, { size: SIZE, files: 1000 })
  const follower = new Program(t, process.execPath, [
    batonCommand,
    'logs',
    'web',
    '-f',
    '--json',
    '--config',
    broker.configFile,
  ])
  const read = () => parsed(follower.lines)
  const COUNT = 10_000
  let printed = 0
  /** Prints from both backends, or from whichever is there. */
  const print = async () => {
    const from = printed
    printed += COUNT
    const half = COUNT / 2
    await Promise.all([
      ask(broker, `/print?from=${from}&count=${half}`),
      ask(broker, `/print?from=${from + half}&count=${half}`),
    ])
  }

  await Promise.all([print(), reload(t, broker)])
  const worker = await onlyWorker(t, broker)
  const printing = print()
  // Before, the connection of a request could die with the worker, and its lines would never be printed.
  const begun = [printed - COUNT, printed - COUNT / 2]
  await eventually(() => {
    const numbers = new Set(numbersIn(read()))
    return begun.every((number) => numbers.has(number))
  }, 'both requests have reached a backend')
  signal(worker, 'SIGKILL')
  await printing.catch(() => undefined)
  await eventually(async () => (await onlyWorker(t, broker)) !== worker, 'another worker')
  await broker.backends(2)
  await print()
  await eventually(
    () => numbersIn(read()).length === printed,
    () => `${numbersIn(read()).length} lines`,
  )
  const kept = await logsOf(broker, 'web')
  t.same(ascending(numbersIn(kept)), upTo(printed), 'each line is kept once')
  t.same(read(), kept, 'and was followed once, in the same order')
  t.ok(outputFiles(broker).length > 20, 'over many files')
  for (const name of outputFiles(broker))
    t.ok(statSync(join(broker.folder, 'run/output', name)).size <= SIZE, name)
  t.same(numbersIn(await logsOf(broker, 'web', '--lines', '700')), numbersIn(kept).slice(-700))

  await t.test('the worker keeps what is printed while there is no master', async (t) => {
    await ask(broker, '/half', 'api')
    // The next change of the fleet tells the worker what it would need.
    signal(Number(await ask(broker, '/')), 'SIGKILL')
    await broker.backends(2)
    await ask(broker, '/rest', 'api')
    await eventually(
      async () => (await logsOf(broker, 'api')).some(({ msg }) => msg === 'half a line, and its rest'),
      'all was read',
    )
    broker.program.kill('SIGKILL')
    await print()
    await eventually(
      async () => numbersIn(await logsOf(broker, 'web')).length === printed,
      'the worker keeps',
    )

    const next = new Program(t, process.execPath, [batonCommand, 'start', '--config', broker.configFile], {
      group: true,
    })
    await next.line((line) => line.includes('reloaded'), 'it has taken over')
    await broker.backends(2)
    await print()
    await eventually(
      async () => numbersIn(await logsOf(broker, 'web')).length === printed,
      'the next one keeps',
    )
    await ask(broker, '/err', 'api')
    await eventually(
      async () => (await logsOf(broker, 'api')).at(-1)?.msg === 'an error',
      'no beginning of a line is printed again',
    )
    t.equal((await logsOf(broker, 'api')).filter(({ msg }) => msg.includes('half')).length, 1)
    await eventually(() => numbersIn(read()).length === printed, 'all was followed')
    t.same(ascending(numbersIn(read())), upTo(printed))

    next.kill('SIGTERM')
    t.same(await next.exited, { code: 0, signal: null })
  })

  await t.test('after the broker has stopped, it is still there', async (t) => {
    const lines = await logsOf(broker, 'web')
    t.same(ascending(numbersIn(lines)), upTo(printed))
    const all = outputFiles(broker).map((name) =>
      readFileSync(join(broker.folder, 'run/output', name), 'utf8'),
    )
    t.ok(all.every((text) => text.endsWith('\n')))
    t.ok(follower.running, 'a follower waits for more')
  })
})

void t.test('no more than the configured number of files is kept', { timeout: LIMIT }, async (t) => {
  const broker = await startPrinting(t, { size: SIZE, files: 3 })
  await ask(broker, '/print?from=0&count=5000')
  await eventually(
    async () => numbersIn(await logsOf(broker, 'web')).at(-1) === 4999,
    'the last line is kept',
  )
  const files = outputFiles(broker).filter((name) => name.startsWith('web.'))
  t.equal(files.length, 3)
  const numbers = numbersIn(await logsOf(broker, 'web'))
  t.same(numbers, upTo(5000).slice(-numbers.length), 'the last ones, without a gap')
  t.equal((await logsOf(broker, 'web')).length, numbers.length)
})
