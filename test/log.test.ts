import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { samples } from './support/operator.ts'
import { Program } from './support/process.ts'
import { RedirectedRun, SlowReader, startRedirected } from './support/redirected.ts'
import { signal } from './support/signal.ts'
import { servedBy } from './support/visit.ts'

// No state of standard output or standard error may stop or block a broker: slow/log.test.ts covers more of them.

/** `baton ARGS...` with its output redirected: the exit code, and the lines that still got through. */
async function redirected(t: Test, redirection: string, args: readonly string[]) {
  const command = ['-c', `exec "$@" ${redirection}`, 'sh', process.execPath, batonCommand, ...args]
  const program = new Program(t, 'sh', command)
  const { code } = await program.exited
  return { code, lines: program.lines }
}

const DROPPED = /warning: log lines were dropped: the output was too slow output=stdout lines=\d+\n/

// The log's reader stopped, and the master blocked in write(2): a killed app was not replaced, a reload got no
// answer, SIGTERM was ignored.
void t.test('baton run: the reader of its output stops', { timeout: LIMIT }, async (t) => {
  const reader = new SlowReader(t)
  const run = await RedirectedRun.start(t, `> ${reader.path} 2>&1`, { SIZE: '3900', EVERY: '20' })
  const app = await run.answers()
  await eventually(async () => (await run.dropped()) > 0, 'lines are dropped')
  signal(app, 'SIGKILL')
  t.ok(await run.answers(app), 'the app that was killed is replaced')

  const text = await reader.reads(DROPPED)
  const lines = text.split('\n').slice(0, -1)
  const cut = lines.filter(
    (line) => /line \d+ \d+ x/.test(line) && !/^app\.1 \| line \d+ \d+ x{3900} end$/.test(line),
  )
  t.same(
    cut.map((line) => `${line.slice(0, 40)}...${line.slice(-40)}`),
    [],
    'lines that are not dropped are complete',
  )

  signal(run.program.pid, 'SIGTERM')
  t.same(await run.program.exited, { code: 0, signal: null })
})

// The first log line that could not be written was an uncaught exception in master and worker.
void t.test('baton start: neither output can be written', { timeout: LIMIT }, async (t) => {
  const broker = await startRedirected(t, '> /dev/full 2> /dev/full')
  const backend = await startBackend(t, broker)
  t.equal(await servedBy(t, broker), backend.pid)
  // Without a log file there is nothing to reopen, and Node's inspector must not open either.
  signal(broker.program.pid, 'SIGUSR1')
  signal(broker.pid, 'SIGUSR1')
  t.equal(await servedBy(t, broker), backend.pid)
  t.equal(
    (await samples(broker)).get('baton_log_lines_dropped_total'),
    0,
    'lines that fit into the buffer wait',
  )

  const config = ['--config', broker.configFile]
  const refused = 'baton: standard output cannot be written: ENOSPC: no space left on device, write'
  t.same(await redirected(t, '> /dev/full', ['status', ...config]), { code: 1, lines: [refused] })
  t.same(await redirected(t, '> /dev/full', ['start', '--help']), { code: 1, lines: [refused] })
  // A successful deploy exited with 1 because its output could not be written.
  t.same(await redirected(t, '> /dev/full', ['reload', ...config]), { code: 0, lines: [refused] })
  t.same(await redirected(t, '> /dev/full', ['reload', '--help']), { code: 1, lines: [refused] })

  signal(broker.program.pid, 'SIGTERM')
  t.same(await broker.program.exited, { code: 0, signal: null })
})
