import { parseArgs } from 'node:util'

import { nearMiss } from '../config/near-miss.ts'
import { UsageError, type Terminal } from './output/terminal.ts'
import type { CommandName } from './summaries.ts'

export interface Option {
  /** One letter. */
  readonly short?: string
  /** Name of the value in the help; absent for a switch. */
  readonly value?: string
  readonly help: string
}

/** One `baton COMMAND`. */
export interface Command {
  readonly name: CommandName
  /** Names of the arguments. Those in brackets are optional, and come last; `a|b` is a choice of words. */
  readonly operands: readonly string[]
  /** Name of the arguments after `--`, which are passed on as they are; absent where there may be none. */
  readonly rest?: string
  readonly summary: string
  readonly details: string
  readonly options: Readonly<Record<string, Option>>
  /** Whether its last argument may be a negative number, which is no option then. */
  readonly signed?: boolean
  /** @returns the exit code */
  run(given: Invocation, terminal: Terminal): number | Promise<number>
}

export interface Invocation {
  readonly operands: readonly string[]
  /** Arguments after `--`. */
  readonly rest: readonly string[]
  readonly values: ReadonlyMap<string, string>
  readonly switches: ReadonlySet<string>
}

export const DEFAULT_CONFIG = 'baton.json'

export const configOption: Record<'config', Option> = {
  config: { value: 'FILE', help: `configuration file (default: ${DEFAULT_CONFIG})` },
}

/** @throws UsageError, with what was probably meant if that is close */
export function parseInvocation(command: Command, args: readonly string[]): Invocation {
  const known: Record<string, Option> = { ...command.options, help: { help: 'show this help' } }
  // Not strict: the errors of parseArgs name neither the command nor a near miss. Its tokens are enough.
  const separator = command.rest === undefined ? -1 : args.indexOf('--')
  const rest = separator === -1 ? [] : args.slice(separator + 1)
  const isNumber = (word: string) => command.signed === true && /^-\d/.test(word)
  const given = (separator === -1 ? args : args.slice(0, separator)).filter((word) => !isNumber(word))
  const { tokens } = parseArgs({
    args: given,
    strict: false,
    tokens: true,
    options: Object.fromEntries(
      Object.entries(known).map(([name, { short, value }]) => [
        name,
        { type: value === undefined ? 'boolean' : 'string', ...(short !== undefined && { short }) },
      ]),
    ),
  })

  const operands: string[] = []
  const values = new Map<string, string>()
  const switches = new Set<string>()
  for (const token of tokens) {
    if (token.kind === 'positional') operands.push(token.value)
    if (token.kind !== 'option') continue
    const option = Object.hasOwn(known, token.name) ? known[token.name] : undefined
    if (option === undefined)
      throw new UsageError(`unknown option ${token.rawName}${meant(token.name, Object.keys(known))}`)
    if (option.value === undefined) {
      if (token.value !== undefined) throw new UsageError(`${token.rawName} takes no value`)
      switches.add(token.name)
      continue
    }
    // In `--config --json` the next option is not a file name.
    if (
      token.value === undefined ||
      token.value === '' ||
      (!token.inlineValue && token.value.startsWith('-'))
    ) {
      throw new UsageError(`${token.rawName} needs a value: ${token.rawName} ${option.value}`)
    }
    values.set(token.name, token.value)
  }
  operands.push(...args.filter(isNumber))
  if (!switches.has('help')) checkOperands(command, operands)
  return { operands, rest, values, switches }
}

function checkOperands(command: Command, operands: readonly string[]): void {
  const missing = command.operands[operands.length]
  if (missing !== undefined && !missing.startsWith('['))
    throw new UsageError(`${command.name} needs ${missing}`)
  const extra = operands[command.operands.length]
  if (extra === undefined) return
  if (command.rest !== undefined)
    throw new UsageError(`put the command after "--": baton ${command.name} -- ${extra} ...`)
  throw new UsageError(`unexpected argument ${JSON.stringify(extra)}`)
}

function meant(name: string, known: readonly string[]): string {
  const near = nearMiss(name, known)
  return near === undefined ? '' : ` (did you mean --${near}?)`
}

/** The output of `baton COMMAND --help`. */
export function helpOf(command: Command): string {
  const options = Object.entries({ ...command.options, help: { help: 'show this help' } } as Record<
    string,
    Option
  >).map(([name, { short, value, help }]): [string, string] => [
    `${short === undefined ? '' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`,
    help,
  ])
  const width = Math.max(...options.map(([form]) => form.length))
  return [
    `Usage: baton ${[command.name, ...command.operands, '[options]', ...(command.rest === undefined ? [] : ['--', command.rest])].join(' ')}`,
    '',
    command.details,
    '',
    'Options:',
    ...options.map(([form, help]) => `  ${form.padEnd(width)}  ${help}`),
  ].join('\n')
}
