import { STATUS_CODES, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { AdminError } from './errors.ts'

/** How long a client whose request was refused may go on sending, in milliseconds: a close with unread data would reset the answer. */
const DRAIN_TIMEOUT_MS = 500

/** Bytes: half of what Node takes for a whole head. */
const LONG_LINE_BYTES = 8192

interface ClientError extends Error {
  readonly code?: string | undefined
  /** What the parser was given last. */
  readonly rawPacket?: unknown
}

/** Clients that have been answered; their parser may report more errors. */
const refused = new WeakSet<Socket>()

/**
 * Answers a request that is no HTTP, in the form of every other error. `answering`: a response to an earlier request is due or being
 * written, so that the connection can only be closed.
 */
export function refuseClient(error: ClientError, socket: Socket, answering: boolean): void {
  if (refused.has(socket)) return
  if (error.code === 'ECONNRESET' || !socket.writable || answering) return void socket.destroy()
  refused.add(socket)
  socket.end(answerText(refusalOf(error)))
  setTimeout(() => socket.destroy(), DRAIN_TIMEOUT_MS).unref()
}

/** As `refuseClient`, of CONNECT: Node passes it on without a response object. */
export function refuseConnect(socket: Socket): void {
  refused.add(socket)
  socket.on('error', () => {})
  socket.end(
    answerText(new AdminError('BATON_ERR_ADMIN_METHOD', 'this server is no proxy: there is no CONNECT')),
  )
  setTimeout(() => socket.destroy(), DRAIN_TIMEOUT_MS).unref()
}

/** Of one request too many before the responses to earlier ones: this response is the last one of its connection. */
export function refusePipelined(response: ServerResponse, limit: number): void {
  const { code, message, statusCode } = new AdminError(
    'BATON_ERR_ADMIN_TOO_MANY_REQUESTS',
    `at most ${limit} requests of a connection may wait for their responses`,
  )
  response.writeHead(statusCode, { ...ANSWER_HEADERS, Connection: 'close' })
  response.end(JSON.stringify({ error: { code, message } }))
}

function refusalOf({ code, message, rawPacket }: ClientError): AdminError {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new AdminError('BATON_ERR_ADMIN_TIMEOUT', 'the request did not arrive in time')
  if (code !== 'HPE_HEADER_OVERFLOW')
    return new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', `this is no HTTP request: ${message}`)
  return isLongRequestLine(rawPacket)
    ? new AdminError('BATON_ERR_ADMIN_URI_TOO_LONG', 'the request line is too long')
    : new AdminError('BATON_ERR_ADMIN_HEADERS_TOO_LARGE', 'the header fields are too large')
}

/** What the parser was given last begins with a request line that has no end yet, or one that is most of a head. */
function isLongRequestLine(packet: unknown): boolean {
  if (!Buffer.isBuffer(packet) || !/^[A-Z]+ /.test(packet.toString('latin1', 0, 32))) return false
  const end = packet.indexOf('\n')
  return end === -1 || end > LONG_LINE_BYTES
}

const ANSWER_HEADERS = {
  'Content-Type': 'application/json; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
}

function answerText({ code, message, statusCode }: AdminError): string {
  const body = JSON.stringify({ error: { code, message } })
  return [
    `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode] ?? ''}`,
    ...Object.entries(ANSWER_HEADERS).map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n')
}
