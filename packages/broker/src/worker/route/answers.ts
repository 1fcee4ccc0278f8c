/** To a request that no route takes. */
export const NOT_FOUND = answer('404 Not Found', 'No service has this host or path.\n')

/** To a request that HTTP parsers could read in two ways. */
export const BAD_REQUEST = answer('400 Bad Request', 'The request is malformed or ambiguous.\n')

/** To a client whose address has too many connections, or opens them too fast. */
export const TOO_MANY_REQUESTS = answer(
  '429 Too Many Requests',
  'Too many connections from this address.\n',
  'Retry-After: 1\r\n',
)

/** To a client of a listener that has too many connections, whoever has opened them. */
export const FULL = answer('429 Too Many Requests', 'Too many connections.\n', 'Retry-After: 5\r\n')

/** To a ClientHello that no route takes: a fatal alert, unrecognized_name (RFC 6066, section 3). */
export const UNRECOGNIZED_NAME = Buffer.from([21, 3, 3, 0, 2, 2, 112])

function answer(status: string, body: string, fields = ''): Buffer {
  return Buffer.from(
    `HTTP/1.1 ${status}\r\nConnection: close\r\n${fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  )
}
