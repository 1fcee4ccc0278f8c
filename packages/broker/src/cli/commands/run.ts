import { writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { errnoOf } from '../../config/error.ts'
import { parseDuration } from '../../config/duration.ts'
import { parseAddress, formatAddress } from '../../config/address.ts'
import { logicalFolder, throughLinks } from '../../config/working-folder.ts'
import type { Command } from '../command.ts'
import { NOT_FOUND, unstartable } from '../../supervise/startable.ts'
import { UsageError } from '../output/terminal.ts'
import { CommandError } from '../../exit-codes.ts'

/** The service of the app that `baton run` runs. */
const SERVICE = 'app'

export const runApp: Command = {
  name: 'run',
  operands: [],
  rest: 'CMD...',
  summary: 'run an app behind a broker of its own, as it is',
  details: [
    'Runs N processes of a Node app that knows nothing of Baton, in the foreground: where the app calls listen(port), a',
    'broker listens instead, and gives each connection to one of them. A process that dies is replaced. `baton deploy app`',
    'with the configuration file that it prints replaces all of them, one after the other, and no client notices; with --watch',
    'each change of a file does. Everything behind `--` is the command: baton run -i 2 -- node server.js',
    '',
    'A command that cannot be started ends it with exit code 127 (not found) or 126 (not executable). So does, with exit code 1',
    'and its last lines, an app that ends five times in a row before it has served. SIGTERM, Ctrl-C, the end of the terminal, of',
    'npx, npm or of the script that has run it drain the app and end it; nohup, setsid and disown let it outlive them.',
  ].join('\n'),
  options: {
    instances: {
      short: 'i',
      value: 'N',
      help: 'so many processes, or "max": one for each processor (default: 1)',
    },
    listen: { value: 'ADDR', help: 'listen there, whatever the app asks for' },
    watch: { help: 'deploy again when a file in this folder changes' },
    restart: {
      value: 'WHEN',
      help: 'always: start the app again however often it fails to start (default: give up after five times in a row)',
    },
    'drain-deadline': {
      value: 'DURATION',
      help: 'cut connections of a process that is stopped or replaced after this time (default: 30s)',
    },
  },
  async run({ rest, values, switches }, terminal) {
    if (rest.length === 0)
      throw new UsageError('run needs the command of the app: baton run -- node server.js')
    const listen = values.get('listen')
    const address = listen === undefined ? undefined : parseAddress(listen)
    if (typeof address === 'string') throw new UsageError(`--listen: ${address}`)
    const drainDeadline = durationOf(values.get('drain-deadline') ?? '30s')
    const restart = restartOf(values.get('restart'))
    const instances = instancesOf(values.get('instances') ?? '1')
    const cwd = workingFolder(rest)
    const [{ findLaunchers, GIVEN_LISTENER, makeRunFolder, runMaster }, { exitProcess }] = await Promise.all([
      import('../../master/main.ts'),
      import('../../log/standard.ts'),
    ])
    const folder = makeRunFolder()
    const file = join(folder, 'baton.json')
    const listener = (name: string, where: string) => ({
      name,
      listen: where,
      protocol: 'http',
      service: SERVICE,
    })
    const config = {
      runtimeDir: folder,
      drainDeadline,
      admin: { listen: `unix:${join(folder, 'admin.sock')}` },
      listeners: [
        // There is always one, also before the app listens; handy for a look from this machine.
        listener('local', `unix:${join(folder, 'app.sock')}`),
        ...(address === undefined ? [] : [listener(GIVEN_LISTENER, formatAddress(address))]),
      ],
      services: {
        [SERVICE]: {
          command: rest,
          // Not by getcwd(2): a deploy follows the link through which the folder was entered.
          cwd,
          instances,
          env: {
            BATON_MASTER_SOCKET: join(folder, 'master.sock'),
            BATON_DRAIN_DEADLINE: String(drainDeadline),
            NODE_OPTIONS: [process.env['NODE_OPTIONS'], `--import=${preload()}`].filter(Boolean).join(' '),
          },
        },
      },
    }
    writeFileSync(file, `${JSON.stringify(config, undefined, 2)}\n`)
    terminal.out(`to replace the app's processes: baton deploy ${SERVICE} --config ${file}`)
    return runMaster({
      file,
      warn: () => {},
      signals: process,
      exit: exitProcess,
      run: {
        claims: {},
        watch: switches.has('watch') ? cwd : null,
        folder,
        restart,
        launchers: findLaunchers(),
      },
    })
  },
}

/**
 * Where the command runs.
 *
 * @throws {CommandError} exit code 126 or 127: it cannot be started
 */
function workingFolder(command: readonly string[]): string {
  let cwd: string
  try {
    cwd = process.cwd()
  } catch (error) {
    const why = `the working folder is gone (${errnoOf(error) ?? String(error)})`
    throw new CommandError(`cannot start ${JSON.stringify(command[0])}: ${why}`, {
      exitCode: NOT_FOUND,
      cause: error,
    })
  }
  const problem = unstartable(command, cwd, process.env['PATH'])
  if (problem !== undefined) throw new CommandError(problem.reason, { exitCode: problem.code })
  return logicalFolder(process.env, cwd)
}

function durationOf(text: string): number {
  const ms = parseDuration(/^\d+$/.test(text) ? `${text}ms` : text)
  if (ms === undefined)
    throw new UsageError(`--drain-deadline: ${JSON.stringify(text)} is no duration such as 30s or 500ms`)
  return ms
}

function restartOf(text: string | undefined): 'limited' | 'always' {
  if (text === undefined) return 'limited'
  if (text === 'always') return 'always'
  throw new UsageError(`--restart: ${JSON.stringify(text)} is not "always"`)
}

function instancesOf(text: string): number {
  if (text === 'max') return availableParallelism()
  const instances = Number(text)
  if (Number.isInteger(instances) && instances >= 1 && instances <= 1024) return instances
  throw new UsageError(`--instances: ${JSON.stringify(text)} is neither a number of processes nor "max"`)
}

/** As an URL: the path may have spaces, which NODE_OPTIONS takes for an end. */
function preload(): string {
  const file = fileURLToPath(import.meta.resolve('@baton/backend-sdk/register'))
  const cwd = process.cwd()
  return pathToFileURL(throughLinks(file, logicalFolder(process.env, cwd), cwd)).href
}
