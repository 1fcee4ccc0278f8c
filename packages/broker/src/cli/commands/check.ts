import { loadConfig, type Config, warningsOf } from '../../config/config.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { READABLE_VERSIONS, STATE_VERSION_VARIABLE } from '../../ipc/state-version.ts'
import { loadPrograms } from '../../programs.ts'
import type { Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'

export const check: Command = {
  name: 'check',
  operands: [],
  summary: 'check the configuration',
  details: 'Reads the configuration file as `baton start` would, and says what is wrong with it.',
  options: configOption,
  async run({ values }, terminal) {
    const config = loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    await loadsFor(process.env[STATE_VERSION_VARIABLE])
    const counts = [count(config.listeners.length, 'listener'), count(config.services.size, 'service')]
    terminal.out(`${config.file}: ok (${counts.join(', ')})`)
    return DONE
  },
}

/**
 * A master that is about to replace its program by this one asks whether it loads, and reads what that master would leave.
 *
 * @param version of its state; undefined when nobody asks
 * @throws CommandError
 */
async function loadsFor(version: string | undefined): Promise<void> {
  if (version === undefined) return
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
export function loadServed(file: string, terminal: Terminal): Config {
  const config = loadConfig(file)
  for (const { path, message } of warningsOf(config)) terminal.err(`${file}: ${path}: warning: ${message}`)
  return config
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
