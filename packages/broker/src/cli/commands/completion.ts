import type { Command } from '../command.ts'
import { bashCompletion } from '../completion/bash.ts'
import { fishCompletion } from '../completion/fish.ts'
import { zshCompletion } from '../completion/zsh.ts'
import { UsageError } from '../output/terminal.ts'
import { DONE } from '../../exit-codes.ts'
import { SUMMARIES } from '../summaries.ts'

const SHELLS = new Map([
  ['bash', bashCompletion],
  ['zsh', zshCompletion],
  ['fish', fishCompletion],
])

/** @param commands every command, including this one */
export function completionOf(commands: () => readonly Command[]): Command {
  const shells = [...SHELLS.keys()]
  return {
    name: 'completion',
    operands: [shells.join('|')],
    summary: SUMMARIES.completion,
    details: [
      'Prints a script that completes commands, options, files, and the names of services and backends of the running broker.',
      'Run this for the current shell, or put it into its start-up file:',
      '  source <(baton completion bash)',
      '  source <(baton completion zsh)      (after compinit)',
      '  baton completion fish | source',
    ].join('\n'),
    options: {},
    run({ operands }, terminal) {
      const script = SHELLS.get(operands[0] ?? '')
      if (script === undefined)
        throw new UsageError(`${JSON.stringify(operands[0])} is not one of ${shells.join(', ')}`)
      terminal.out(script(commands()))
      return DONE
    },
  }
}
