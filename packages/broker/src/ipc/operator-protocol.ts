/**
 * The protocol between operators and the master on `master.sock`. A command is one line: `COMMAND WORD... KEY=VALUE...`. The answer is
 * any number of progress lines, then `Success=0` or `Success=1`, `--`, and log lines (docs/internals/master.md).
 */

/** Outcome of a command, and the lines to show the operator. */
export interface CommandResult {
  readonly success: boolean
  readonly log: readonly string[]
}

/** The result of a refused command. */
export function refusal(why: string): CommandResult {
  return { success: false, log: [why] }
}

export function answerText(success: boolean, log: readonly string[]): string {
  return [`Success=${success ? 1 : 0}`, '--', ...log, ''].join('\n')
}

/** Parses an answer line by line. */
export class AnswerReader {
  readonly #progress: (line: string) => void
  readonly #log: string[] = []
  #success: boolean | undefined

  /** @param progress receives each line before the result */
  constructor(progress: (line: string) => void) {
    this.#progress = progress
  }

  /** Undefined until the result has been received. */
  get answer(): CommandResult | undefined {
    return this.#success === undefined ? undefined : { success: this.#success, log: this.#log }
  }

  push(line: string): void {
    if (this.#success === undefined) {
      const answer = /^Success=([01])$/.exec(line)
      if (answer === null) this.#progress(line)
      else this.#success = answer[1] === '1'
    } else if (line !== '--' || this.#log.length > 0) this.#log.push(line)
  }
}

/** Splits what follows a command into words and options. */
export function parse(rest: readonly string[]): { words: string[]; options: Map<string, string> } {
  const words: string[] = []
  const options = new Map<string, string>()
  for (const word of rest) {
    const at = word.indexOf('=')
    if (at > 0) options.set(word.slice(0, at), word.slice(at + 1))
    else words.push(word)
  }
  return { words, options }
}

/** A `listen(port)` call made by a program under `baton run`. */
export interface PortRequest {
  readonly service: string
  readonly host: string
  readonly port: number
  readonly protocol: 'http' | 'tls' | 'tcp'
  /** The program only wants to know whether it could listen: nothing is opened for good. */
  readonly probe?: boolean
}

/** The address and port where the request was granted. */
export interface OpenedPort {
  readonly service: string
  readonly address: string
  readonly port: number
}

const PROTOCOLS = ['http', 'tls', 'tcp'] as const

/** @returns the request, or an error message */
export function portRequest(options: ReadonlyMap<string, string>): PortRequest | string {
  const service = options.get('service') ?? ''
  const host = options.get('host') ?? '::'
  const port = Number(options.get('port'))
  const protocol = PROTOCOLS.find((each) => each === (options.get('protocol') ?? 'http'))
  if (service === '' || protocol === undefined || !Number.isInteger(port) || port < 1 || port > 65_535)
    return 'listen requires service=NAME and port=1..65535; host= and protocol=http|tls|tcp are optional'
  return { service, host, port, protocol, ...(options.get('probe') === '1' && { probe: true }) }
}
