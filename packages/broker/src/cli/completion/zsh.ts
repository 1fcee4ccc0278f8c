import type { Command } from '../command.ts'
import { type CompletedOption, NAMES_PROGRAM, optionsOf, type Place, placeOf, quoted } from './words.ts'

/** A completion script for zsh: a file `_baton` in `fpath`, or sourced after `compinit`. */
export function zshCompletion(commands: readonly Command[]): string {
  return `#compdef baton
# Completion of the command baton for zsh. To enable it, after compinit: source <(baton completion zsh)

_baton_names() {
  local -a config names
  local at=\${words[(i)--config]} word
  if (( at < \${#words} )); then config=(--config "\${(Q)words[at + 1]}")
  else
    for word in $words; do [[ $word == --config=* ]] && config=(--config "\${(Q)word#--config=}"); done
  fi
  names=(\${(f)"$("$_baton_command" status --json $config 2>/dev/null | awk -v targets="$1" ${quoted(NAMES_PROGRAM)})"})
  compadd -a names
}
_baton_services() { _baton_names 0 }
_baton_targets() { _baton_names 1 }

_baton() {
  local _baton_command=\${(Q)words[1]} curcontext=$curcontext state
  local -a line
  local -A opt_args
  _arguments -C '(- : *)--help[show this help]' '(- : *)--version[print the version]' '1:command:->command' '*::argument:->argument'
  case $state in
    command)
      local -a commands=(
${commands.map(({ name, summary }) => `        ${quoted(`${name}:${summary}`)}`).join('\n')}
      )
      _describe command commands
      ;;
    argument)
      case $words[1] in
${commands.map(commandCase).join('\n')}
      esac
      ;;
  esac
}

if [[ \${funcstack[1]} == _baton ]]; then _baton "$@"; else compdef _baton baton; fi`
}

function commandCase(command: Command): string {
  const specs = [
    ...optionsOf(command).flatMap(optionSpecs),
    ...command.operands.map(
      (operand, index) => `${index + 1}:${escaped(operand)}:${action(placeOf(operand))}`,
    ),
    ...(command.rest === undefined ? [] : ['*::command:_normal']),
  ]
  return [
    `        ${command.name})`,
    `          _arguments ${specs.map(quoted).join(' \\\n            ')} ;;`,
  ].join('\n')
}

function optionSpecs({ name, short, value, help }: CompletedOption): string[] {
  const argument = value === undefined ? '' : `:${escaped(value)}:${action(placeOf(value))}`
  const specs = [`--${name}${value === undefined ? '' : '='}[${escaped(help)}]${argument}`]
  if (short !== undefined) specs.push(`-${short}[${escaped(help)}]${argument}`)
  return specs
}

/** Escapes brackets and colons, which have a meaning to `_arguments`. */
function escaped(text: string): string {
  return text.replaceAll(/[[\]:\\]/g, String.raw`\$&`)
}

function action(place: Place): string {
  switch (place.kind) {
    case 'file':
      return '_files'
    case 'service':
      return '_baton_services'
    case 'target':
      return '_baton_targets'
    case 'choice':
      return `(${place.words.join(' ')})`
    case 'unknown':
      break
  }
  return ' '
}
