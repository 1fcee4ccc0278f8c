/**
 * What an operator and a master say to each other on `master.sock`. A command is one line: `COMMAND WORD... KEY=VALUE...`. The answer is
 * any number of lines, then `Success=0` or `Success=1`, `--`, and more lines (docs/internals/master.md).
 */

/** How a command ended, and what is to be said of it. */
export interface CommandResult {
  readonly success: boolean
  readonly log: readonly string[]
}

/** Nothing was done, and why. */
export function refusal(why: string): CommandResult {
  return { success: false, log: [why] }
}

export function answerText(success: boolean, log: readonly string[]): string {
  return [`Success=${success ? 1 : 0}`, '--', ...log, ''].join('\n')
}

/** What comes of the lines of an answer, one after the other. */
export class AnswerReader {
  readonly #progress: (line: string) => void
  readonly #log: string[] = []
  #success: boolean | undefined

  /** @param progress gets each line before the answer */
  constructor(progress: (line: string) => void) {
    this.#progress = progress
  }

  /** Undefined until it has come. */
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

/** The words behind a command, and its options. */
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

/** What a program asks for that calls `listen(port)` under `baton run`. */
export interface PortRequest {
  readonly service: string
  readonly host: string
  readonly port: number
  readonly protocol: 'http' | 'tls' | 'tcp'
}

/** Where it is served. */
export interface OpenedPort {
  readonly service: string
  readonly address: string
  readonly port: number
}

const PROTOCOLS = ['http', 'tls', 'tcp'] as const

/** What is wrong, or the request. */
export function portRequest(options: ReadonlyMap<string, string>): PortRequest | string {
  const service = options.get('service') ?? ''
  const host = options.get('host') ?? '::'
  const port = Number(options.get('port'))
  const protocol = PROTOCOLS.find((each) => each === (options.get('protocol') ?? 'http'))
  if (service === '' || protocol === undefined || !Number.isInteger(port) || port < 1 || port > 65_535)
    return 'listen needs service=NAME, port=1..65535, and may have host= and protocol=http|tls|tcp'
  return { service, host, port, protocol }
}
