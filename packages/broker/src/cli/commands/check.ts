import { accessSync, constants, existsSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { Config } from '../../config/config.ts'
import { errnoOf } from '../../config/error.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import {
  CARRIED_PARTS,
  CARRIED_PARTS_LABEL,
  READABLE_VERSIONS,
  STATE_VERSION_VARIABLE,
} from '../../ipc/state-version.ts'
import { unusable } from '../../listening/runtime-folder.ts'
import { loadPrograms } from '../../programs.ts'
import { unstartable } from '../../supervise/startable.ts'
import type { Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

export const check: Command = {
  name: 'check',
  operands: [],
  summary: SUMMARIES.check,
  details: [
    'Validates the configuration file as `baton start` would, and lists every problem. Warns about commands that cannot be',
    'started, and a runtimeDir that cannot be used, on this machine by this user.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const config = await loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    for (const { path, message } of machineWarnings(config)) warn(config, path, message, terminal)
    const version = process.env[STATE_VERSION_VARIABLE]
    if (version !== undefined) {
      await loadsFor(version)
      terminal.out(`${CARRIED_PARTS_LABEL}${CARRIED_PARTS.join(', ')}`)
    }
    const counts = [count(config.listeners.length, 'listener'), count(config.services.size, 'service')]
    terminal.out(`${config.file}: ok (${counts.join(', ')})`)
    return DONE
  },
}

/**
 * A master that is about to replace its program with this one first checks that it loads, and that it can read that master's state.
 *
 * @param version of the state
 * @throws CommandError
 */
async function loadsFor(version: string): Promise<void> {
  await loadPrograms()
  if (!READABLE_VERSIONS.includes(Number(version))) {
    throw new CommandError(
      `this program reads a master's state of version ${READABLE_VERSIONS.join(' or ')}, not ${version}; stop and start`,
    )
  }
}

/**
 * Loads a configuration; warnings go to `terminal.err`.
 *
 * @throws ConfigError
 */
export async function loadServed(file: string, terminal: Terminal): Promise<Config> {
  const { loadConfig, warningsOf } = await import('../../config/config.ts')
  const config = loadConfig(file)
  const { checkSchedules } = await import('../../config/schedule.ts')
  await checkSchedules(file, config.services)
  for (const { path, message } of warningsOf(config)) warn(config, path, message, terminal)
  return config
}

function warn({ file }: Config, path: string, message: string, terminal: Terminal): void {
  terminal.err(`${file}: ${path}: warning: ${message}`)
}

/** Problems that would make a start fail on this machine. They are no errors: the file may be for another one. */
function machineWarnings({ file, runtimeDir, services }: Config): { path: string; message: string }[] {
  const folder = dirname(resolve(file ?? ''))
  const commands = [...services.values()].flatMap(({ name, command, cwd, env }) => {
    if (command === null) return []
    const problem = unstartable(command, resolve(folder, cwd), env['PATH'] ?? process.env['PATH'])
    return problem === undefined ? [] : [{ path: `services.${name}.command`, message: problem.reason }]
  })
  const problem = whyUnusable(runtimeDir)
  return problem === undefined ? commands : [...commands, { path: 'runtimeDir', message: problem }]
}

function whyUnusable(runtimeDir: string): string | undefined {
  try {
    const problem = unusable(runtimeDir)
    if (problem !== undefined) return problem
    let existing = runtimeDir
    while (!existsSync(existing)) existing = dirname(existing)
    accessSync(existing, constants.W_OK | constants.X_OK)
    return undefined
  } catch (error) {
    return `${runtimeDir} cannot be used (${errnoOf(error) ?? String(error)})`
  }
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
