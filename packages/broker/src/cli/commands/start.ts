import { existsSync } from 'node:fs'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { CommandError } from '../../exit-codes.ts'
import { loadServed } from './check.ts'
import { SUMMARIES } from '../summaries.ts'

export const start: Command = {
  name: 'start',
  operands: [],
  summary: SUMMARIES.start,
  details: [
    'Runs the broker in the foreground, with JSON logs on standard output: a master, which holds the sockets, and a worker,',
    'which serves. SIGHUP reloads it like `baton reload`, SIGUSR1 reopens its log file, and SIGUSR2 writes its status to the log.',
    'SIGTERM, SIGINT or SIGQUIT drains it, and it exits with 0; a second one ends it immediately. npx, npm, pnpm, yarn and bun',
    'end at SIGTERM without passing it on: without a terminal, a broker that one of them has started drains when it ends. A',
    'service manager should start the command itself, node_modules/.bin/baton start, and so wait for the drain.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    if (!existsSync('/proc/self') && process.platform === 'linux')
      throw new CommandError('the broker needs /proc, which is not mounted here (proc(5))')
    // Imported here because no other command needs libc: `check` works on other platforms too.
    const { runMaster } = await import('../../master/main.ts')
    const { exitProcess } = await import('../../log/standard.ts')
    return runMaster({
      file,
      warn: async () => void (await loadServed(file, terminal)),
      signals: process,
      exit: exitProcess,
    })
  },
}
