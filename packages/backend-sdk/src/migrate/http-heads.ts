import type { IncomingMessage } from 'node:http'

const END_OF_HEAD = '\r\n\r\n'

/** Fields of an answer that decide how the bytes behind it are to be read. */
const FRAMING = /^(?:transfer-encoding|content-[a-z]+|sec-websocket-[a-z]+|upgrade):/

/** Names of fields that an SDK adds to the recorded head of an answer. The client never sees them. */
const OWN_FIELD = /^baton-/i

/** The head of a request as the client has sent it, but for blanks around the values of fields. */
export function requestHead(
  request: Pick<IncomingMessage, 'method' | 'url' | 'httpVersion' | 'rawHeaders'>,
): Buffer {
  const { method, url, httpVersion, rawHeaders } = request
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let index = 0; index < rawHeaders.length; index += 2)
    head += `${rawHeaders[index]}: ${rawHeaders[index + 1]}\r\n`
  return Buffer.from(`${head}\r\n`, 'latin1')
}

/** Where the bytes behind an HTTP head begin; -1 if it is incomplete. */
export function endOfHead(bytes: Buffer): number {
  const at = bytes.indexOf(END_OF_HEAD)
  return at === -1 ? -1 : at + END_OF_HEAD.length
}

function linesOf(head: Buffer): string[] {
  return head.toString('latin1').split('\r\n')
}

/** Whether a client that has read the first head can read what follows the second. */
export function sameFraming(one: Buffer, other: Buffer): boolean {
  return one.equals(other) || framing(one) === framing(other)
}

function framing(head: Buffer): string {
  const [status = '', ...fields] = linesOf(head).map((line) => line.toLowerCase().trim())
  const kept = fields
    .filter((line) => FRAMING.test(line))
    .map((line) => line.replace(/:\s*/, ':'))
    .toSorted()
  return [status.split(' ')[1], ...kept].join('\n')
}

/** The status of an answer. */
export function statusOf(head: Buffer): string | undefined {
  return linesOf(head)[0]?.split(' ')[1]
}

/** The value of a field, or undefined. */
export function field(head: Buffer, name: string): string | undefined {
  const start = `${name.toLowerCase()}:`
  return linesOf(head)
    .find((line) => line.toLowerCase().startsWith(start))
    ?.slice(start.length)
    .trim()
}

/** The head with one more field, for the next SDK. */
export function withOwnField(head: Buffer, name: `Baton-${string}`, value: string): Buffer {
  const clean = linesOf(head).filter((line) => !OWN_FIELD.test(line))
  clean.splice(-2, 0, `${name}: ${value}`)
  return Buffer.from(clean.join('\r\n'), 'latin1')
}
