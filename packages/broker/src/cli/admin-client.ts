import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'

import { errnoOf, formatAddress, type Address, type Config } from '../config/index.ts'
import { CommandError } from './terminal.ts'

/** The broker answers from memory; one that takes longer is stuck. */
const TIMEOUT_MS = 5000

/**
 * Asks the running broker through its admin server.
 *
 * @returns the parsed body of a 2xx answer
 * @throws CommandError when nobody answers, or with what the broker says is wrong
 */
export async function askBroker(
  config: Config,
  method: 'GET' | 'POST',
  path: string,
  body?: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  const { listen, token } = config.admin
  const where = `${formatAddress(listen)} (admin.listen of ${config.file})`
  const payload = body === undefined ? undefined : JSON.stringify(body)
  let answer: { status: number; text: string }
  try {
    answer = await exchange(
      { ...target(listen, where), method, path, headers: headers(token?.reveal(), payload) },
      payload,
    )
  } catch (error) {
    if (error instanceof CommandError) throw error
    const errno = errnoOf(error)
    if (errno === 'EACCES') throw new CommandError(`this user may not connect to ${where}`, { cause: error })
    throw new CommandError(`nobody answers at ${where}: ${errno ?? String(error)}; is the broker running?`, {
      cause: error,
    })
  }

  const json = parse(answer.text)
  if (answer.status >= 200 && answer.status < 300 && json !== undefined) return json
  const { error } = Object(json)
  if (typeof error?.message === 'string') throw new CommandError(error.message)
  throw new CommandError(`what listens at ${where} is not a Baton broker (it answered ${answer.status})`)
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
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const request = httpRequest({ ...options, signal, agent: false }, (response) => {
      collect(response).then((text) => resolve({ status: response.statusCode ?? 0, text }), reject)
    })
    request.on('error', (error) =>
      reject(signal.aborted ? new Error(`no answer for ${TIMEOUT_MS} ms`) : error),
    )
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
