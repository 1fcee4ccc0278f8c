import type { PortRequest } from '../../ipc/operator-protocol.ts'
import type { OperatorSession } from './operator-session.ts'

/** How a command ended, and what is to be said of it. */
export interface Outcome {
  readonly success: boolean
  readonly log: readonly string[]
}

/** Nothing was done, and why. */
export function refusal(why: string): Outcome {
  return { success: false, log: [why] }
}

export interface DeployCommand {
  readonly service: string
  /** How many instances at a time. */
  readonly atOnce: number
  /** Ends the one that goes on, or goes back to the old version. */
  readonly abort: boolean
  /** Who asks. */
  readonly by: string
  readonly progress: (line: string) => void
}

/** What an operator can ask of a master. Refusals are outcomes, not errors. */
export interface OperatorCommands {
  status(): unknown
  deploy(command: DeployCommand): Promise<Outcome>
  listen(request: PortRequest): Promise<Outcome>
  /** Answers the session itself: in this program, or in the one that replaces it. Refuses while something else goes on, unless it may wait. */
  reload(session: OperatorSession, wait: boolean): void
  /** Answers the session itself, when all is over. */
  stop(session: OperatorSession): void
}

/** Characters. No name is longer, and what is not understood is repeated in the answer. */
const MAX_WORD_LENGTH = 255

const PROTOCOLS = ['http', 'tls', 'tcp'] as const

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

export function reply(session: OperatorSession, { success, log }: Outcome): void {
  session.write(answerText(success, log))
  session.answered()
}

export function answerText(success: boolean, log: readonly string[]): string {
  return [`Success=${success ? 1 : 0}`, '--', ...log, ''].join('\n')
}

async function answerWith(session: OperatorSession, outcome: Promise<Outcome>): Promise<void> {
  reply(session, await outcome)
}

function parse(rest: readonly string[]): { words: string[]; options: Map<string, string> } {
  const words: string[] = []
  const options = new Map<string, string>()
  for (const word of rest) {
    const at = word.indexOf('=')
    if (at > 0) options.set(word.slice(0, at), word.slice(at + 1))
    else words.push(word)
  }
  return { words, options }
}

function portRequest(options: ReadonlyMap<string, string>): PortRequest | string {
  const service = options.get('service') ?? ''
  const host = options.get('host') ?? '::'
  const port = Number(options.get('port'))
  const protocol = PROTOCOLS.find((each) => each === (options.get('protocol') ?? 'http'))
  if (service === '' || protocol === undefined || !Number.isInteger(port) || port < 1 || port > 65_535)
    return 'listen needs service=NAME, port=1..65535, and may have host= and protocol=http|tls|tcp'
  return { service, host, port, protocol }
}
