import type { Command } from '../command.ts'
import { NAMES_PROGRAM, optionsOf, type Place, placeOf, quoted } from './words.ts'

/** A completion script for bash that needs only its builtins. */
export function bashCompletion(commands: readonly Command[]): string {
  return `# Completion of the command baton for bash. To enable it: source <(baton completion bash)

_baton_names() {
  local config=()
  [[ -n $_baton_config ]] && config=(--config "$_baton_config")
  "$_baton_command" status --json "\${config[@]}" 2>/dev/null | awk -v targets="$1" ${quoted(NAMES_PROGRAM)}
}

_baton_files() {
  compopt -o filenames 2>/dev/null
  local file
  while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -- "$1")
}

_baton_words() {
  local word
  while IFS= read -r word; do [[ $word == "$2"* ]] && COMPREPLY+=("$word"); done <<<"$1"
}

_baton() {
  local _baton_command=\${COMP_WORDS[0]} _baton_config='' name='' operands=0 previous='' word i
  local current=\${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=()
  # bash splits "--config=FILE" into three words.
  [[ $current == = ]] && current=''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    [[ $word == = ]] && continue
    if [[ $previous == --config ]]; then _baton_config=$word; fi
    case "$name $previous" in
${valued(commands)
  .map((pattern) => `      ${pattern}) previous=''; continue ;;`)
  .join('\n')}
    esac
    previous=''
    case $word in
      --) [[ $name == run ]] && { _baton_files "$current"; return; } ;;
      -*) previous=$word ;;
      *) if [[ -z $name ]]; then name=$word; else operands=$((operands + 1)); fi ;;
    esac
  done

  case "$name $previous" in
${commands.flatMap(valueCases).join('\n')}
  esac

  case $name in
    '') _baton_words $'${[...commands.map(({ name }) => name), '--help', '--version'].join('\\n')}' "$current" ;;
${commands.map(commandCase).join('\n')}
  esac
}

complete -F _baton baton`
}

/** A pattern for each option that takes a value, with its command. */
function valued(commands: readonly Command[]): string[] {
  return commands.flatMap((command) =>
    optionsOf(command)
      .filter(({ value }) => value !== undefined)
      .map(({ name, short }) => patterns(command, name, short)),
  )
}

function patterns({ name: command }: Command, name: string, short: string | undefined): string {
  const forms = [`--${name}`, ...(short === undefined ? [] : [`-${short}`])]
  return forms.map((form) => `'${command} ${form}'`).join(' | ')
}

function valueCases(command: Command): string[] {
  return optionsOf(command).flatMap(({ name, short, value }) =>
    value === undefined ? [] : [`    ${patterns(command, name, short)}) ${offer(placeOf(value))}return ;;`],
  )
}

function commandCase(command: Command): string {
  const options = optionsOf(command).map(({ name }) => `--${name}`)
  const [operand] = command.operands
  const offered = operand === undefined ? '' : offer(placeOf(operand))
  return [
    `    ${command.name})`,
    `      if [[ $current == -* ]]; then _baton_words $'${options.join('\\n')}' "$current"`,
    ...(offered === '' ? [] : [`      elif ((operands == 0)); then ${offered.trimEnd()}`]),
    '      fi ;;',
  ].join('\n')
}

function offer(place: Place): string {
  switch (place.kind) {
    case 'file':
      return '_baton_files "$current"; '
    case 'service':
      return '_baton_words "$(_baton_names 0)" "$current"; '
    case 'target':
      return '_baton_words "$(_baton_names 1)" "$current"; '
    case 'choice':
      return `_baton_words $'${place.words.join('\\n')}' "$current"; `
    case 'unknown':
      break
  }
  return ''
}
