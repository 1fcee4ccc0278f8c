import { connect } from 'node:net'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { getSystemErrorMap } from 'node:util'
import { Backoff } from '../backoff.ts'
import { RegisterError } from './errors.ts'

/** A request to the master: one line on its operator socket. */
export interface ListenRequest {
  readonly service: string
  /** An IP address. */
  readonly host: string
  readonly port: number
  readonly protocol: 'http' | 'tls' | 'tcp'
  /** The app only wants to know whether it could listen there: nothing is opened for good. */
  readonly probe: boolean
}

/** The address that the master listens on for this service. */
export interface Opened {
  readonly service: string
  readonly address: string
  readonly port: number
}

const ANSWER_TIMEOUT_MS = 30_000

/** Maximum attempts, which take about 5 s. A master that reloads cuts its current sessions and answers a later one. */
const MAX_SESSIONS = 8

/** An answer is a line or two. */
const MAX_ANSWER_BYTES = 64 * 1024

/** Errors of Node's own `listen()`, which apps match by `error.code`. */
const SYSTEM_CODES = ['EADDRINUSE', 'EACCES', 'EADDRNOTAVAIL', 'EAFNOSUPPORT'] as const

/**
 * Asks the master to open a port.
 *
 * @throws {RegisterError} BATON_ERR_MASTER_UNREACHABLE, BATON_ERR_LISTEN_REFUSED
 * @throws {Error} EADDRINUSE, EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, in the form of Node's own `listen()` errors
 */
export async function askMaster(path: string, request: ListenRequest, signal: AbortSignal): Promise<Opened> {
  const { service, host, port, protocol, probe } = request
  const line = `listen service=${service} host=${host} port=${port} protocol=${protocol}${probe ? ' probe=1' : ''}\n`
  const backoff = new Backoff()
  let answer = await converse(path, line, signal)
  for (let session = 1; answer === '' && session < MAX_SESSIONS; session++) {
    await sleep(backoff.next(), undefined, { signal })
    answer = await converse(path, line, signal)
  }
  const [first, ...rest] = answer.split('\n').filter((each) => each !== '' && each !== '--')
  if (first === 'Success=1') return openedOf(rest[0] ?? '', path)
  if (first !== 'Success=0') throw unreachable(path, `it answered ${JSON.stringify(answer.slice(0, 200))}`)
  throw refusal(rest.join('; '), request)
}

function openedOf(line: string, path: string): Opened {
  try {
    const { service, address, port } = JSON.parse(line) as Partial<Opened>
    if (typeof service === 'string' && typeof address === 'string' && typeof port === 'number')
      return { service, address, port }
  } catch {
    // Reported below.
  }
  throw unreachable(path, `it answered ${JSON.stringify(line.slice(0, 200))}`)
}

function refusal(reason: string, request: ListenRequest): Error {
  const code = SYSTEM_CODES.find((each) => reason.includes(each))
  return code === undefined
    ? new RegisterError('BATON_ERR_LISTEN_REFUSED', reason)
    : listenError(code, request)
}

/** An error in the form of Node's own `listen()` errors. */
export function listenError(
  code: (typeof SYSTEM_CODES)[number],
  { host, port }: Pick<ListenRequest, 'host' | 'port'>,
): Error {
  const errno = -constants.errno[code]
  const [, text = ''] = getSystemErrorMap().get(errno) ?? []
  const message = `listen ${code}: ${text} ${host}:${port}`
  return Object.assign(new Error(message), { code, errno, syscall: 'listen', address: host, port })
}

function unreachable(path: string, detail: string, cause?: unknown): RegisterError {
  return new RegisterError('BATON_ERR_MASTER_UNREACHABLE', `${path}: ${detail}`, { cause })
}

/** Sends one line and reads until the master closes the session. Returns an empty string if the session was cut. */
async function converse(path: string, line: string, signal: AbortSignal): Promise<string> {
  signal.throwIfAborted()
  const socket = connect({ path, timeout: ANSWER_TIMEOUT_MS })
  const abort = () => socket.destroy(signal.reason as Error)
  signal.addEventListener('abort', abort)
  socket.on('timeout', () => socket.destroy(new Error(`no answer within ${ANSWER_TIMEOUT_MS} ms`)))
  let answer = ''
  try {
    socket.write(line)
    for await (const chunk of socket.setEncoding('utf8')) {
      answer += String(chunk)
      if (answer.length > MAX_ANSWER_BYTES) throw new Error(`it answered more than ${MAX_ANSWER_BYTES} bytes`)
    }
  } catch (error) {
    signal.throwIfAborted()
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== 'ECONNRESET' || answer !== '') throw unreachable(path, message, error)
  } finally {
    signal.removeEventListener('abort', abort)
  }
  return answer
}
