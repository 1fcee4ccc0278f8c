import type { Command, Option } from '../command.ts'

/**
 * A completion at a position of the command line: a file, a service, a service or one of its backends (`target`), one of a
 * few words, or nothing.
 */
export type Place =
  | { readonly kind: 'file' | 'service' | 'target' | 'unknown' }
  | { readonly kind: 'choice'; readonly words: readonly string[] }

/** Found by the name that an operand or a value has in the help. */
export function placeOf(name: string): Place {
  if (name === 'FILE') return { kind: 'file' }
  if (name === 'SERVICE') return { kind: 'service' }
  if (name.replace(/^\[(.*)\]$/, '$1') === 'SERVICE[/BACKEND]') return { kind: 'target' }
  if (name.includes('|')) return { kind: 'choice', words: name.split('|') }
  return { kind: 'unknown' }
}

export interface CompletedOption extends Option {
  readonly name: string
}

/** The options of a command, including `--help`. */
export function optionsOf(command: Command): CompletedOption[] {
  return [
    ...Object.entries(command.options).map(([name, option]) => ({ name, ...option })),
    { name: 'help', help: 'show this help' },
  ]
}

/**
 * Program for awk: prints the services in the output of `baton status --json`, one per line, and with `targets=1` their backends as
 * well. It relies on the indentation of that output, and on names having no characters that JSON escapes.
 */
export const NAMES_PROGRAM = [
  '/^  "services": \\[/ { inside = 1 }',
  '/^  \\]/ { inside = 0 }',
  'inside && /^      "name": / { split($0, part, "\\""); service = part[4]; print service }',
  'inside && targets && /^          "slot": / { split($0, part, "\\""); print service "/" part[4] }',
].join('\n')

/** Single quotes protect every character in all three shells, except a single quote (and in fish a backslash). */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

/** A word to be typed into a shell: quoted only if it has to be. */
export function quotedForShell(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : quoted(word)
}
