import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { isPackageRunner } from '../packages/broker/src/master/run/launchers.ts'
import { batonCommand } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { exists, signal } from './support/signal.ts'

// A service manager signals the process that it started. When that was `npx baton start`, npx ended, the shell between them kept the
// signal, and the broker went on without anyone to stop it, on the ports that its successor needed.

interface Started {
  /** The process that the service manager started. */
  readonly program: Program
  readonly master: number
  readonly configFile: string
}

/** `baton start` behind other programs, in a session of its own: there is no terminal. @param command of a program that runs the words after it */
async function startBehind(t: Test, command: (words: string, folder: string) => string[]): Promise<Started> {
  const folder = temporaryFolder(t)
  const configFile = join(folder, 'baton.json')
  const listeners = [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }]
  const admin = { listen: '127.0.0.1:0' }
  writeFileSync(configFile, JSON.stringify({ runtimeDir: 'run', admin, listeners, services: { web: {} } }))
  const words = [process.execPath, batonCommand, 'start', '--config', configFile]
  const [name = '', ...args] = command(words.map((word) => `"${word}"`).join(' '), folder)
  const program = new Program(t, name, args, { cwd: folder, group: true })
  const { admin: address } = await program.message('accepting connections')
  const status = (await (await fetch(`http://${address as string}/api/v1/status`)).json()) as {
    broker: { master: number }
  }
  return { program, master: status.broker.master, configFile }
}

/** `npm start`, whose shell stays between npm and the broker as it does under Debian's sh. */
function npmStart(words: string, folder: string): string[] {
  const scripts = { start: `${words}; exit $?` }
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'app', version: '1.0.0', scripts }))
  return ['npm', 'start', '--silent']
}

async function reload(t: Test, { configFile }: Started): Promise<void> {
  const command = new Program(t, process.execPath, [batonCommand, 'reload', '--config', configFile])
  t.match(await command.exited, { code: 0 }, command.lines.join('\n'))
}

void t.test(
  'a broker that npm has started drains when npm is terminated, also after a reload',
  { timeout: LIMIT },
  async (t) => {
    for (const reloaded of [false, true]) {
      const started = await startBehind(t, npmStart)
      if (reloaded) await reload(t, started)
      const { program, master } = started
      program.kill('SIGTERM')
      // Of the output too, which the broker held open.
      await program.exited
      await eventually(() => !exists(master), 'the master has ended')
      const messages = program.messages()
      const draining = messages.find(({ msg }) => msg === 'draining')
      t.match(draining?.['signal'], /^\S.* \(pid \d+\), which started the broker, has exited$/)
      t.match(messages.at(-1), { msg: 'stopped' })
    }
  },
)

void t.test('a broker that another program has started outlives it', { timeout: LIMIT }, async (t) => {
  const started = await startBehind(t, (words) => ['bash', '-c', `${words}; exit $?`])
  const { program, master } = started
  program.kill('SIGKILL')
  await eventually(() => !exists(program.pid), 'the program that started it has ended')
  // The master replaces its worker and itself: whatever it had seen before, it has acted upon.
  await reload(t, started)
  t.notOk(program.messages().some(({ msg }) => msg === 'draining'))
  signal(master, 'SIGTERM')
  await program.exited
  t.match(program.messages().find(({ msg }) => msg === 'draining')?.['signal'], 'SIGTERM')
})

void t.test('which programs are package runners', async (t) => {
  for (const args of [
    ['npm exec baton start'],
    ['npm start'],
    ['node', '/usr/bin/npx', 'baton', 'start'],
    ['/usr/bin/node', '/usr/lib/node_modules/npm/bin/npm-cli.js', 'start'],
    ['node', '/opt/pnpm/bin/pnpm.cjs', 'exec', 'baton'],
    ['/usr/bin/node', '/usr/share/yarn/bin/yarn.js', 'start'],
    ['bunx', 'baton'],
    ['node', '--run', 'start'],
  ])
    t.ok(isPackageRunner(args), args.join(' '))
  for (const args of [[''], ['node', 'supervisor.js'], ['sh', '-c', 'npm start'], ['/sbin/init'], ['node']])
    t.notOk(isPackageRunner(args), args.join(' '))
})
