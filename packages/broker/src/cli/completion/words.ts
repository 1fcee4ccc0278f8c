import type { Command, Option } from '../command.ts'

/**
 * What may stand in a place of the command line: a file, a service, a service or one of its backends, one of some words, or
 * something that nobody can guess.
 */
export type Place =
  | { readonly kind: 'file' | 'service' | 'target' | 'unknown' }
  | { readonly kind: 'choice'; readonly words: readonly string[] }

/** By the name that help gives to an operand or a value. */
export function placeOf(name: string): Place {
  if (name === 'FILE') return { kind: 'file' }
  if (name === 'SERVICE') return { kind: 'service' }
  if (name === 'SERVICE[/BACKEND]') return { kind: 'target' }
  if (name.includes('|')) return { kind: 'choice', words: name.split('|') }
  return { kind: 'unknown' }
}

export interface CompletedOption extends Option {
  readonly name: string
}

/** The options of a command, `--help` among them. */
export function optionsOf(command: Command): CompletedOption[] {
  return [
    ...Object.entries(command.options).map(([name, option]) => ({ name, ...option })),
    { name: 'help', help: 'show this' },
  ]
}

/**
 * Prints the services that `baton status --json` names, or with `targets=1` their backends too, a line each. Its input is what that
 * command prints, two blanks for each level; names hold nothing that JSON would escape.
 */
export const NAMES_PROGRAM = [
  '/^  "services": \\[/ { inside = 1 }',
  '/^  \\]/ { inside = 0 }',
  'inside && /^      "name": / { split($0, part, "\\""); service = part[4]; print service }',
  'inside && targets && /^          "slot": / { split($0, part, "\\""); print service "/" part[4] }',
].join('\n')

/** Single quotes keep everything in all three shells, but a single quote (and in fish a backslash). */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
