import { rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { errnoOf } from '../../config/error.ts'
import { parseDuration } from '../../config/duration.ts'
import { parseAddress, formatAddress } from '../../config/address.ts'
import { logicalFolder } from '../../config/working-folder.ts'
import type { Command } from '../command.ts'
import { quotedForShell } from '../completion/words.ts'
import { NOT_FOUND, unstartable } from '../../supervise/startable.ts'
import { UsageError } from '../output/terminal.ts'
import { CommandError } from '../../exit-codes.ts'
import { readFileSettings, RUN_SERVICE, runConfiguration } from '../run-configuration.ts'
import { SUMMARIES } from '../summaries.ts'

export const runApp: Command = {
  name: 'run',
  operands: [],
  rest: 'CMD...',
  summary: SUMMARIES.run,
  details: [
    'Runs N processes of a Node app in the foreground. The app needs no change: where it calls listen(port), a broker listens',
    'instead, and hands each connection to one of the processes. A process that dies is restarted. The first line of output is',
    'the `baton deploy` command that replaces all processes, one at a time, without clients noticing; --watch does so whenever a',
    'file changes. Everything after `--` is the command: baton run -i 2 -- node server.js',
    '',
    'If the command cannot be started, the exit code is 127 (not found) or 126 (not executable). If the app exits five times in a',
    'row before it has served, `baton run` prints its last lines and exits with 1. SIGTERM, Ctrl-C, and the end of the terminal or',
    'of the npx, npm or script that started it drain the app and stop it; nohup, setsid and disown keep it running.',
  ].join('\n'),
  options: {
    config: {
      value: 'FILE',
      help: `take settings of the broker, and of its service "${RUN_SERVICE}", from a configuration file`,
    },
    instances: {
      short: 'i',
      value: 'N',
      help: 'number of processes, or "max" for one per CPU (default: 1)',
    },
    listen: { value: 'ADDR', help: "listen on ADDR instead of the app's own address" },
    watch: { help: 'redeploy when a file in the working directory changes' },
    restart: {
      value: 'WHEN',
      help: '"always": never give up starting the app (default: give up after five failures in a row)',
    },
    'drain-deadline': {
      value: 'DURATION',
      help: 'when a process is stopped or replaced, cut its connections after this time (default: 30s)',
    },
  },
  async run({ rest, values, switches }, terminal) {
    if (rest.length === 0) throw new UsageError("run needs the app's command: baton run -- node server.js")
    const listen = values.get('listen')
    const address = listen === undefined ? undefined : parseAddress(listen)
    if (typeof address === 'string') throw new UsageError(`--listen: ${address}`)
    const deadline = values.get('drain-deadline')
    const drainDeadline = deadline === undefined ? undefined : durationOf(deadline)
    const restart = restartOf(values.get('restart'))
    const number = values.get('instances')
    const instances = number === undefined ? undefined : instancesOf(number)
    const given = values.get('config')
    const settings = given === undefined ? undefined : readFileSettings(given)
    for (const { path, message } of settings?.unused ?? [])
      terminal.err(`${given}: ${path}: warning: has no effect: ${message}`)
    const cwd = workingFolder(rest)
    const [{ findLaunchers, GIVEN_LISTENER, makeRunFolder, runMaster }, { exitProcess }] = await Promise.all([
      import('../../master/main.ts'),
      import('../../log/standard.ts'),
    ])
    const folder = makeRunFolder()
    const file = join(folder, 'baton.json')
    const listeners = {
      // A configuration needs a listener, also before the app listens on a port.
      local: `unix:${join(folder, 'app.sock')}`,
      ...(address !== undefined && { [GIVEN_LISTENER]: formatAddress(address) }),
    }
    // The folder is not from getcwd(2): each deploy follows the link through which it was entered.
    const chosen = { folder, listeners, command: rest, cwd, instances, drainDeadline }
    try {
      const config = await runConfiguration(chosen, settings)
      writeFileSync(file, `${JSON.stringify(config, undefined, 2)}\n`)
    } catch (error) {
      rmSync(folder, { recursive: true, force: true })
      throw error
    }
    terminal.out(
      `to replace the app's processes: baton deploy ${RUN_SERVICE} --config ${quotedForShell(file)}`,
    )
    return runMaster({
      file,
      warn: async () => {},
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
 * The working directory of the command.
 *
 * @throws {CommandError} exit code 126 or 127: the command cannot be started
 */
function workingFolder(command: readonly string[]): string {
  let cwd: string
  try {
    cwd = process.cwd()
  } catch (error) {
    const why = `the working folder is gone (${errnoOf(error) ?? String(error)})`
    throw new CommandError(`cannot start ${JSON.stringify(command[0])}: ${why}`, {
      exitCode: NOT_FOUND,
      code: 'BATON_ERR_NOT_STARTABLE',
      cause: error,
    })
  }
  const problem = unstartable(command, cwd, process.env['PATH'])
  if (problem !== undefined)
    throw new CommandError(problem.reason, { exitCode: problem.code, code: 'BATON_ERR_NOT_STARTABLE' })
  return logicalFolder(process.env, cwd)
}

function durationOf(text: string): number {
  const ms = parseDuration(/^\d+$/.test(text) ? `${text}ms` : text)
  if (ms === undefined)
    throw new UsageError(`--drain-deadline: ${JSON.stringify(text)} is not a duration such as 30s or 500ms`)
  return ms
}

function restartOf(text: string | undefined): 'limited' | 'always' {
  if (text === undefined) return 'limited'
  if (text === 'always') return 'always'
  throw new UsageError(`--restart: ${JSON.stringify(text)} must be "always"`)
}

function instancesOf(text: string): number {
  if (text === 'max') return availableParallelism()
  const instances = Number(text)
  if (Number.isInteger(instances) && instances >= 1 && instances <= 1024) return instances
  throw new UsageError(`--instances: ${JSON.stringify(text)} must be a number from 1 to 1024, or "max"`)
}
