import type { Command } from '../command.ts'
import { NAMES_PROGRAM, optionsOf, type Place, placeOf } from './words.ts'

/** A completion script for fish: a file in `~/.config/fish/completions`, or sourced. */
export function fishCompletion(commands: readonly Command[]): string {
  const valued = commands
    .flatMap(optionsOf)
    .filter(({ value }) => value !== undefined)
    .flatMap(({ name, short }) => [`--${name}`, ...(short === undefined ? [] : [`-${short}`])])
  return `# Completion of the command baton for fish. To enable it: baton completion fish | source

# The words before the cursor that are neither options nor their values: the command, then its operands.
function __baton_operands
    set -l words (commandline -opc)
    set -l skip 0
    for word in $words[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word ${[...new Set(valued)].join(' ')}
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __baton_command_missing
    test -z "$(__baton_operands)"
end

function __baton_command
    set -l operands (__baton_operands)
    test "$operands[1]" = $argv[1]
end

function __baton_operand_missing
    test "$(__baton_operands)" = $argv[1]
end

function __baton_names
    set -l words (commandline -opc)
    set -l config
    for at in (seq (count $words))
        if test $words[$at] = --config
            set config --config $words[(math $at + 1)]
        else if string match -q -- '--config=*' $words[$at]
            set config --config (string replace -- --config= '' $words[$at])
        end
    end
    $words[1] status --json $config 2>/dev/null | awk -v targets=$argv[1] ${fishQuoted(NAMES_PROGRAM)}
end

complete -c baton -f
complete -c baton -n __baton_command_missing -l help -d 'show this help'
complete -c baton -n __baton_command_missing -l version -d 'print the version'
${commands
  .map(
    ({ name, summary }) =>
      `complete -c baton -n __baton_command_missing -a ${name} -d ${fishQuoted(summary)}`,
  )
  .join('\n')}
${commands.flatMap(linesOf).join('\n')}`
}

function linesOf(command: Command): string[] {
  const [operand] = command.operands
  const offered = operand === undefined ? '' : argumentsOf(placeOf(operand))
  return [
    ...optionsOf(command).map(({ name, short, value, help }) =>
      [
        `complete -c baton -n '__baton_command ${command.name}' -l ${name}`,
        ...(short === undefined ? [] : [`-s ${short}`]),
        ...(value === undefined
          ? []
          : [placeOf(value).kind === 'file' ? '-r' : '-x', argumentsOf(placeOf(value))]),
        `-d ${fishQuoted(help)}`,
      ]
        .filter((part) => part !== '')
        .join(' '),
    ),
    ...(offered === '' ? [] : [`complete -c baton -n '__baton_operand_missing ${command.name}' ${offered}`]),
    // After `--` comes the app's command with its own arguments.
    ...(command.rest === undefined ? [] : [`complete -c baton -n '__baton_command ${command.name}' -F`]),
  ]
}

function argumentsOf(place: Place): string {
  switch (place.kind) {
    case 'file':
      return '-F'
    case 'service':
      return "-a '(__baton_names 0)'"
    case 'target':
      return "-a '(__baton_names 1)'"
    case 'choice':
      return `-a '${place.words.join(' ')}'`
    case 'unknown':
      break
  }
  return ''
}

/** Within single quotes, fish takes a backslash before a quote or a backslash as an escape. */
function fishQuoted(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}
