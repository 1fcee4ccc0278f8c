import {
  answerText,
  type CommandResult,
  parse,
  type PortRequest,
  portRequest,
  refusal,
} from '../../ipc/operator-protocol.ts'
import type { DeployCommand } from '../deploy/messages.ts'
import type { OperatorSession } from './operator-session.ts'

/** What an operator can ask of a master. Refusals are outcomes, not errors. */
export interface OperatorCommands {
  status(): unknown
  deploy(command: DeployCommand): Promise<CommandResult>
  listen(request: PortRequest): Promise<CommandResult>
  /** Answers the session itself: in this program, or in the one that replaces it. Refuses while something else goes on, unless it may wait. */
  reload(session: OperatorSession, wait: boolean): void
  /** Answers the session itself, when all is over. */
  stop(session: OperatorSession): void
}

/** Characters. No name is longer, and what is not understood is repeated in the answer. */
const MAX_WORD_LENGTH = 255

/** One line of an operator: `COMMAND WORD... KEY=VALUE...`. */
export function runCommand(
  session: OperatorSession,
  [command = '', ...rest]: readonly string[],
  master: OperatorCommands,
): void {
  const refuse = (why: string) => reply(session, refusal(why))
  if ([command, ...rest].some(({ length }) => length > MAX_WORD_LENGTH))
    return refuse(`a word has at most ${MAX_WORD_LENGTH} characters`)
  const { words, options } = parse(rest)
  switch (command) {
    case 'prompt':
      session.prompt = true
      return session.answered()
    case 'quit':
      return session.end()
    case 'status':
      session.write(`${JSON.stringify(master.status())}\n`)
      return session.answered()
  }
  if (!['reload', 'stop', 'deploy', 'listen'].includes(command))
    return refuse(`unknown command ${JSON.stringify(command)}`)
  if (session.rights !== 'operator') return refuse(`this user may not ${command}`)
  if (command === 'deploy') {
    const atOnce = Number(options.get('at-once') ?? 1)
    const [service = '', mode] = words
    if (!Number.isInteger(atOnce) || atOnce < 1) return refuse('at-once is a number of instances')
    const progress = (line: string) => session.write(`${line}\n`)
    const request = { service, atOnce, abort: mode === 'abort', by: session.peer, progress }
    return void answerWith(session, master.deploy(request))
  }
  if (command === 'listen') {
    const request = portRequest(options)
    return typeof request === 'string' ? refuse(request) : void answerWith(session, master.listen(request))
  }
  if (command === 'reload') {
    const [mode] = rest
    if (rest.length > 1 || (mode !== undefined && mode !== 'no-wait'))
      return refuse('reload takes no argument but no-wait')
    return master.reload(session, mode === undefined)
  }
  if (rest.length > 0) return refuse(`${command} takes no arguments`)
  master.stop(session)
}

export function reply(session: OperatorSession, { success, log }: CommandResult): void {
  session.write(answerText(success, log))
  session.answered()
}

async function answerWith(session: OperatorSession, outcome: Promise<CommandResult>): Promise<void> {
  reply(session, await outcome)
}
