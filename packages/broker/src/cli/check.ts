import { loadConfig, refuseUnsupported, warningsOf, type Config } from '../config/index.ts'
import { configOption, DEFAULT_CONFIG, type Command } from './command.ts'
import { DONE, type Terminal } from './terminal.ts'

export const check: Command = {
  name: 'check',
  operands: [],
  summary: 'check the configuration',
  details: 'Reads the configuration file as `baton start` would, and says what is wrong with it.',
  options: configOption,
  run({ values }, terminal) {
    const config = loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    const counts = [count(config.listeners.length, 'listener'), count(config.services.size, 'service')]
    terminal.out(`${config.file}: ok (${counts.join(', ')})`)
    return DONE
  },
}

/**
 * Loads a configuration that this version can serve; warnings go to `terminal.err`.
 *
 * @throws ConfigError
 */
export function loadServed(file: string, terminal: Terminal): Config {
  const config = loadConfig(file)
  refuseUnsupported(config)
  for (const { path, message } of warningsOf(config)) terminal.err(`${file}: ${path}: warning: ${message}`)
  return config
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`
}
