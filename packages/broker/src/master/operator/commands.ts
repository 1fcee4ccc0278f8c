import {
  answerText,
  type Outcome,
  parse,
  type PortRequest,
  portRequest,
  refusal,
} from '../../ipc/operator-protocol.ts'
import type { DeployCommand } from '../deploy/deployer.ts'
import type { Session } from './operator-session.ts'

/** What an operator can ask of a master. Refusals are outcomes, not errors. */
export interface Commanded {
  status(): unknown
  deploy(command: DeployCommand): Promise<Outcome>
  listen(request: PortRequest): Promise<Outcome>
  /** Answers the session itself: in this program, or in the one that replaces it. Refuses while something else goes on, unless it may wait. */
  reload(session: Session, wait: boolean): void
  /** Answers the session itself, when all is over. */
  stop(session: Session): void
}

/** Characters. No name is longer, and what is not understood is repeated in the answer. */
const LONGEST_WORD = 255

/** One line of an operator: `COMMAND WORD... KEY=VALUE...`. */
export function obey(session: Session, [command = '', ...rest]: readonly string[], master: Commanded): void {
  const refuse = (why: string) => reply(session, refusal(why))
  if ([command, ...rest].some(({ length }) => length > LONGEST_WORD))
    return refuse(`a word has at most ${LONGEST_WORD} characters`)
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

export function reply(session: Session, { success, log }: Outcome): void {
  session.write(answerText(success, log))
  session.answered()
}

async function answerWith(session: Session, outcome: Promise<Outcome>): Promise<void> {
  reply(session, await outcome)
}
