import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { loadServed } from './check.ts'

export const start: Command = {
  name: 'start',
  operands: [],
  summary: 'run the broker',
  details: [
    'Runs the broker in the foreground, with JSON logs on standard output: a master, which holds the sockets, and a',
    'worker, which serves. SIGHUP reloads it as `baton reload` does, and SIGUSR2 writes its status to the log. SIGTERM, SIGINT or',
    'SIGQUIT drains it and ends it with exit code 0; a second one ends it at once.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const file = values.get('config') ?? DEFAULT_CONFIG
    // Loaded here: no other command needs libc, and a platform without it can still check a file.
    const { runMaster } = await import('../../master/main.ts')
    const { exitProcess } = await import('../../log/standard.ts')
    return runMaster({
      file,
      warn: () => void loadServed(file, terminal),
      signals: process,
      exit: exitProcess,
    })
  },
}
