#!/usr/bin/env node
import { keepEarlySignals, takeEarlySignals } from '../early-signals.ts'

// Only a master has signals to obey later; any other command ends by them.
const isMaster = ['start', 'run'].includes(process.argv[2] ?? '')
if (isMaster) keepEarlySignals()
const [{ errnoOf }, { run }, { displayOf }] = await Promise.all([
  import('../config/index.ts'),
  import('./program.ts'),
  import('./output/display.ts'),
])

// `baton status | head`: the reader has seen enough, which is no failure of the command. A terminal that was closed says EIO.
const unread = new AbortController()
process.stdout.on('error', (error) => {
  const errno = errnoOf(error)
  if (errno !== 'EPIPE' && !(errno === 'EIO' && process.stdout.isTTY)) throw error
  unread.abort()
})

process.exitCode = await run(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  ...displayOf(process),
  unread: unread.signal,
})
// Of a start that came to nothing.
takeEarlySignals()
