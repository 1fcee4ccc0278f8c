import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'

import { errnoOf } from '../config/error.ts'
import { formatAddress, type Address } from '../config/address.ts'
import type { Config } from '../config/config.ts'
import { printable } from '../log/printable.ts'
import { CommandError } from '../exit-codes.ts'

/** The broker answers from memory; one that takes longer is stuck. */
const TIMEOUT_MS = 5000

/** The broker answered, and said no. */
export class RefusedError extends CommandError {
  readonly status: number
  /** Of the admin API, stable; undefined when what answers is no broker. */
  readonly code: string | undefined

  constructor(message: string, status: number, code?: string) {
    super(message)
    this.status = status
    this.code = code
  }
}

/**
 * Asks the running broker through its admin server.
 *
 * @returns the parsed body of a 2xx answer
 * @throws CommandError when nobody answers; RefusedError with what the broker says is wrong
 */
export async function askBroker(
  config: Config,
  method: 'GET' | 'POST',
  path: string,
  body?: Readonly<Record<string, unknown>>,
  signal?: AbortSignal,
): Promise<unknown> {
  const where = placeOf(config)
  const { listen, token } = config.admin
  const payload = body === undefined ? undefined : JSON.stringify(body)
  let answer: { status: number; text: string }
  try {
    answer = await exchange(
      { ...target(listen, where), method, path, headers: headers(token?.reveal(), payload) },
      payload,
      signal,
    )
  } catch (error) {
    throw unanswered(error, where)
  }

  const json = parse(answer.text)
  if (answer.status >= 200 && answer.status < 300 && json !== undefined) return json
  throw refused(answer.status, json, where)
}

/**
 * Opens an answer that does not end by itself.
 *
 * @returns its body, which the caller owns; destroyed when `signal` aborts
 * @throws CommandError when nobody answers; RefusedError with what the broker says is wrong, or when the answer is of another type
 */
export async function openStream(
  config: Config,
  path: string,
  type: string,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const where = placeOf(config)
  const { listen, token } = config.admin
  const options = {
    ...target(listen, where),
    path,
    headers: { ...headers(token?.reveal(), undefined), accept: type },
  }
  let response: IncomingMessage
  try {
    response = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = httpRequest({ ...options, signal, agent: false, timeout: TIMEOUT_MS }, resolve)
      request.on('timeout', () => request.destroy(new Error(`no answer for ${TIMEOUT_MS} ms`)))
      request.on('error', reject)
      request.end()
    })
  } catch (error) {
    throw unanswered(error, where)
  }
  if (response.statusCode === 200 && response.headers['content-type']?.startsWith(type) === true)
    return response
  // The text of an error; whatever is longer or never ends is none.
  const text = await collect(response.setTimeout(TIMEOUT_MS, () => response.destroy())).catch(() => '')
  throw refused(response.statusCode ?? 0, parse(text), where)
}

function placeOf({ admin, file }: Config): string {
  return `${formatAddress(admin.listen)} (admin.listen of ${file})`
}

function unanswered(error: unknown, where: string): CommandError {
  if (error instanceof CommandError) return error
  const errno = errnoOf(error)
  if (errno === 'EACCES') return new CommandError(`this user may not connect to ${where}`, { cause: error })
  return new CommandError(`nobody answers at ${where}: ${errno ?? String(error)}; is the broker running?`, {
    cause: error,
  })
}

function refused(status: number, json: unknown, where: string): RefusedError {
  const { error } = Object(json)
  // Whoever listens there may say anything.
  if (typeof error?.message === 'string')
    return new RefusedError(printable(error.message), status, error.code)
  return new RefusedError(`what listens at ${where} is not a Baton broker (it answered ${status})`, status)
}

function target(listen: Address, where: string): RequestOptions {
  if (listen.kind === 'unix') return { socketPath: listen.path }
  if (listen.port === 0)
    throw new CommandError(`${where} has port 0: the port that was chosen is in the log of the broker`)
  const any = { '0.0.0.0': '127.0.0.1', '::': '::1' }[listen.host]
  return { host: any ?? listen.host, port: listen.port }
}

function headers(token: string | undefined, payload: string | undefined): Record<string, string> {
  return {
    // One question for each run of the command: nothing is gained by keeping the connection.
    connection: 'close',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(payload === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(payload)}` }),
  }
}

function exchange(
  options: RequestOptions,
  payload: string | undefined,
  aborted: AbortSignal | undefined,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const late = AbortSignal.timeout(TIMEOUT_MS)
    const signal = aborted === undefined ? late : AbortSignal.any([late, aborted])
    const request = httpRequest({ ...options, signal, agent: false }, (response) => {
      collect(response).then((text) => resolve({ status: response.statusCode ?? 0, text }), reject)
    })
    request.on('error', (error) => reject(late.aborted ? new Error(`no answer for ${TIMEOUT_MS} ms`) : error))
    request.end(payload)
  })
}

async function collect(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks).toString('utf8')
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
