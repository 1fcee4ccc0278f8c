import type { IncomingMessage, RequestOptions } from 'node:http'

import { BROKER_IDENTITY, identityOfBroker } from '../api/broker-identity.ts'
import { errnoOf } from '../config/error.ts'
import { formatAddress, type Address } from '../config/address.ts'
import type { BrokerPlace } from '../config/file.ts'
import { http } from '../node-http.ts'
import { printable } from '../log/printable.ts'
import { CommandError, FAILED, USAGE } from '../exit-codes.ts'

/** The broker answers from memory; if it takes longer, it is stuck. */
const TIMEOUT_MS = 5000

/** The broker refused the request. */
export class RefusedError extends CommandError {
  readonly status: number

  /** @param code of the admin API; undefined when what answers is not a broker */
  constructor(message: string, status: number, code: string | undefined) {
    // The operator has typed its name. Backends and connections come and go, so that naming one that has gone is no mistake.
    super(message, { code, exitCode: code === 'BATON_ERR_ADMIN_NO_SERVICE' ? USAGE : FAILED })
    this.status = status
  }
}

/** The answer came from a broker of another version, or from another program. */
export function unexpectedAnswer(message: string, options?: ErrorOptions): CommandError {
  return new CommandError(message, { ...options, code: 'BATON_ERR_UNEXPECTED_ANSWER' })
}

/**
 * Sends a request to the running broker's admin server.
 *
 * @returns the parsed body of a 2xx response
 * @throws CommandError when the broker cannot be reached; RefusedError, with the broker's reason, when it refuses
 */
export async function askBroker(
  config: BrokerPlace,
  method: 'GET' | 'POST',
  path: string,
  body?: Readonly<Record<string, unknown>>,
  signal?: AbortSignal,
): Promise<unknown> {
  const where = placeOf(config)
  const { listen } = config.admin
  const payload = body === undefined ? undefined : JSON.stringify(body)
  let answer: { status: number; text: string }
  try {
    answer = await exchange(
      { ...target(listen, where), method, path, headers: headers(config, payload) },
      payload,
      signal,
    )
  } catch (error) {
    throw unreachable(error, where)
  }

  const json = parse(answer.text)
  if (answer.status >= 200 && answer.status < 300 && json !== undefined) return json
  throw refused(answer.status, json, where)
}

/**
 * Opens a response that does not end by itself.
 *
 * @returns its body, owned by the caller; destroyed when `signal` aborts
 * @throws CommandError when the broker cannot be reached; RefusedError when it refuses, or answers with another content type
 */
export async function openStream(
  config: BrokerPlace,
  path: string,
  type: string,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const where = placeOf(config)
  const { listen } = config.admin
  const options = {
    ...target(listen, where),
    path,
    headers: { ...headers(config, undefined), accept: type },
  }
  let response: IncomingMessage
  try {
    response = await new Promise<IncomingMessage>((resolve, reject) => {
      const request = http().request({ ...options, signal, agent: false, timeout: TIMEOUT_MS }, resolve)
      request.on('timeout', () => request.destroy(new Error(`no answer for ${TIMEOUT_MS} ms`)))
      request.on('error', reject)
      request.end()
    })
  } catch (error) {
    throw unreachable(error, where)
  }
  if (response.statusCode === 200 && response.headers['content-type']?.startsWith(type) === true)
    return response
  // The body of an error; ignored if it does not end in time.
  const text = await collect(response.setTimeout(TIMEOUT_MS, () => response.destroy())).catch(() => '')
  throw refused(response.statusCode ?? 0, parse(text), where)
}

function placeOf({ admin, file }: BrokerPlace): string {
  return `${formatAddress(admin.listen)} (admin.listen of ${file})`
}

function unreachable(error: unknown, where: string): CommandError {
  if (error instanceof CommandError) return error
  const errno = errnoOf(error)
  const why =
    errno === 'EACCES'
      ? `permission denied: ${where} (EACCES)`
      : `cannot reach the broker at ${where}: ${errno ?? String(error)}; is it running?`
  return new CommandError(why, { cause: error, code: 'BATON_ERR_NO_BROKER' })
}

function refused(status: number, json: unknown, where: string): CommandError {
  const { error } = Object(json)
  // Another program may listen there, and send anything.
  if (typeof error?.message === 'string') {
    const code = /^BATON_ERR_[A-Z_]+$/.test(String(error.code)) ? String(error.code) : undefined
    return new RefusedError(printable(error.message), status, code)
  }
  return unexpectedAnswer(`what listens at ${where} is not a Baton broker (it answered ${status})`)
}

function target(listen: Address, where: string): RequestOptions {
  if (listen.kind === 'unix') return { socketPath: listen.path }
  if (listen.port === 0)
    throw new CommandError(`${where} has port 0; look up the assigned port in the broker's log`, {
      code: 'BATON_ERR_NO_BROKER',
    })
  const any = { '0.0.0.0': '127.0.0.1', '::': '::1' }[listen.host]
  return { host: any ?? listen.host, port: listen.port }
}

function headers({ admin, runtimeDir }: BrokerPlace, payload: string | undefined): Record<string, string> {
  const token = admin.token?.reveal()
  const identity = identityOfBroker(runtimeDir)
  return {
    // A command sends one request, so keeping the connection gains nothing.
    connection: 'close',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(identity === undefined ? {} : { [BROKER_IDENTITY]: identity }),
    ...(payload === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': `${Buffer.byteLength(payload)}` }),
  }
}

async function exchange(
  options: RequestOptions,
  payload: string | undefined,
  aborted: AbortSignal | undefined,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const late = AbortSignal.timeout(TIMEOUT_MS)
    const signal = aborted === undefined ? late : AbortSignal.any([late, aborted])
    const request = http().request({ ...options, signal, agent: false }, (response) => {
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
