import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { http } from '../../node-http.ts'
import { AdminError } from './errors.ts'

/** How long a client whose request was refused may keep sending, in milliseconds. A close with unread data would reset the answer. */
const DRAIN_TIMEOUT_MS = 500

/** Bytes. Half of Node's limit for a whole request head. */
const LONG_LINE_BYTES = 8192

interface ClientError extends Error {
  readonly code?: string | undefined
  /** The parser's last input. */
  readonly rawPacket?: unknown
}

/** Clients that were refused already, whose parser may report further errors. */
const refused = new WeakSet<Socket>()

/**
 * Answers an invalid HTTP request with an error of the usual form.
 *
 * @param answering a response to an earlier request is due or being written, so the connection can only be closed
 */
export function refuseClient(error: ClientError, socket: Socket, answering: boolean): void {
  if (refused.has(socket)) return
  if (error.code === 'ECONNRESET' || !socket.writable || answering) return void socket.destroy()
  refused.add(socket)
  socket.end(answerText(refusalOf(error)))
  setTimeout(() => socket.destroy(), DRAIN_TIMEOUT_MS).unref()
}

/** Like `refuseClient`, for CONNECT, for which Node provides no response object. */
export function refuseConnect(socket: Socket): void {
  refused.add(socket)
  socket.on('error', () => {})
  socket.end(
    answerText(new AdminError('BATON_ERR_ADMIN_METHOD', 'CONNECT is not supported; this is not a proxy')),
  )
  setTimeout(() => socket.destroy(), DRAIN_TIMEOUT_MS).unref()
}

/** Refuses a pipelined request over the limit. This response is the last one on its connection. */
export function refusePipelined(response: ServerResponse, limit: number): void {
  const { code, message, statusCode } = new AdminError(
    'BATON_ERR_ADMIN_TOO_MANY_REQUESTS',
    `at most ${limit} requests may be pending on a connection`,
  )
  response.writeHead(statusCode, { ...ANSWER_HEADERS, Connection: 'close' })
  response.end(JSON.stringify({ error: { code, message } }))
}

function refusalOf({ code, message, rawPacket }: ClientError): AdminError {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT')
    return new AdminError('BATON_ERR_ADMIN_TIMEOUT', 'the request did not arrive in time')
  if (code !== 'HPE_HEADER_OVERFLOW')
    return new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', `not an HTTP request: ${message}`)
  return isLongRequestLine(rawPacket)
    ? new AdminError('BATON_ERR_ADMIN_URI_TOO_LONG', 'the request line is too long')
    : new AdminError('BATON_ERR_ADMIN_HEADERS_TOO_LARGE', 'the header fields are too large')
}

/** Whether the parser's last input starts with a request line that is incomplete, or longer than `LONG_LINE_BYTES`. */
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
    `HTTP/1.1 ${statusCode} ${http().STATUS_CODES[statusCode] ?? ''}`,
    ...Object.entries(ANSWER_HEADERS).map(([name, value]) => `${name}: ${value}`),
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n')
}
