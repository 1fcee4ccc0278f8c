import {
  answerText,
  type CommandResult,
  parse,
  type PortRequest,
  portRequest,
  refusal,
} from '../../ipc/operator-protocol.ts'
import { parseDuration } from '../../config/duration.ts'
import { parseScale, SCALE_EXPECTED } from '../../config/instances.ts'
import { parseShare, SHARE_EXPECTED } from '../../config/share.ts'
import { VERSION, VERSION_EXPECTED } from '../../config/version.ts'
import { describeError } from '../../errors.ts'
import type { CanaryRequest, DeployCommand } from '../deploy/messages.ts'
import type { ScaleAnswer, ScaleCommand } from '../scale/messages.ts'
import type { ShiftRequest } from '../shift/shifts.ts'
import type { OperatorSession } from '../../ipc/operator-session.ts'

/** Commands of an operator. Refusals are results, not errors. */
export interface OperatorCommands {
  status(): unknown
  deploy(command: DeployCommand): Promise<CommandResult>
  /** Resolves once the serving worker applies it. */
  shift(request: ShiftRequest): Promise<CommandResult>
  scale(command: ScaleCommand): Promise<ScaleAnswer>
  listen(request: PortRequest): Promise<CommandResult>
  /** Answers the session itself, from this program or the next one. Refused during another operation unless it may wait. */
  reload(session: OperatorSession, wait: boolean): void
  /** Answers the session itself, once everything has stopped. */
  stop(session: OperatorSession): void
}

/** In characters. No name is longer, and an unknown word is repeated in the answer. */
const MAX_WORD_LENGTH = 255

/** Runs one command line: `COMMAND WORD... KEY=VALUE...`. */
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
  if (!['reload', 'stop', 'deploy', 'scale', 'shift', 'listen'].includes(command))
    return refuse(`unknown command ${JSON.stringify(command)}`)
  if (session.rights !== 'operator')
    return refuse(`permission denied: ${command} requires the broker's user or root`)
  if (command === 'deploy') {
    const atOnce = Number(options.get('at-once') ?? 1)
    const [service = '', mode] = words
    if (!Number.isInteger(atOnce) || atOnce < 1)
      return refuse('at-once must be a number of instances, at least 1')
    const canary = mode === 'abort' ? undefined : canaryRequest(options)
    if (typeof canary === 'string') return refuse(canary)
    const progress = (line: string) => session.write(`${line}\n`)
    const environment = mode === 'abort' ? undefined : options.get('env')
    const abort = mode === 'abort'
    const request = { service, atOnce, abort, canary, environment, by: session.peer, progress }
    return void answerWith(session, master.deploy(request))
  }
  if (command === 'scale') {
    const [service = ''] = words
    const target = parseScale(options.get('to') ?? '')
    if (target === undefined) return refuse(`scale requires to=N: ${SCALE_EXPECTED}`)
    const progress = (line: string) => session.write(`${line}\n`)
    const answer = master.scale({ service, target, by: session.peer, progress })
    return void answerWith(session, options.get('json') === 'yes' ? answer.then(asJson) : answer)
  }
  if (command === 'shift') {
    const request = shiftRequest(words, options, session.peer)
    return typeof request === 'string' ? refuse(request) : void answerWith(session, master.shift(request))
  }
  if (command === 'listen') {
    const request = portRequest(options)
    return typeof request === 'string' ? refuse(request) : void answerWith(session, master.listen(request))
  }
  if (command === 'reload') {
    const [mode] = rest
    if (rest.length > 1 || (mode !== undefined && mode !== 'no-wait'))
      return refuse('reload takes no argument except no-wait')
    return master.reload(session, mode === undefined)
  }
  if (rest.length > 0) return refuse(`${command} takes no arguments`)
  master.stop(session)
}

/** @returns undefined if none is wanted; an error message */
function canaryRequest(options: ReadonlyMap<string, string>): CanaryRequest | string | undefined {
  const text = options.get('canary')
  if (text === undefined) return undefined
  const share = parseShare(text)
  const time = parseDuration(options.get('for') ?? '')
  if (share === undefined || share === 0) return `canary: ${SHARE_EXPECTED}, above 0%`
  return time === undefined || time === 0 ? 'canary requires for=DURATION, such as 10m' : { share, time }
}

/** @returns the request, or an error message */
function shiftRequest(
  [service = '', mode]: readonly string[],
  options: ReadonlyMap<string, string>,
  by: string,
): ShiftRequest | string {
  if (mode === 'off') return { service, shift: undefined, by }
  const share = parseShare(options.get('share') ?? '')
  const to = options.get('to') ?? ''
  if (!VERSION.test(to)) return `shift requires to=VERSION: ${VERSION_EXPECTED}`
  return share === undefined
    ? `shift requires share=N%: ${SHARE_EXPECTED}`
    : { service, shift: { to, share }, by }
}

function asJson({ success, log, result }: ScaleAnswer): CommandResult {
  return { success, log: result === undefined ? log : [JSON.stringify(result)] }
}

export function reply(session: OperatorSession, { success, log }: CommandResult): void {
  session.write(answerText(success, log))
  session.answered()
}

async function answerWith(session: OperatorSession, outcome: Promise<CommandResult>): Promise<void> {
  // An error here is this command's: it must not end the master.
  reply(session, await outcome.catch((error: unknown) => refusal(describeError(error))))
}
