import { createServer, type IncomingMessage, type Server } from 'node:http'
import { Duplex } from 'node:stream'

// Request heads, good and bad, made from a seed; and what Node's own server reads in them.

/** The part of a request that a server has seen. */
export interface Seen {
  readonly host: string | undefined
  /** The request target. */
  readonly url: string
}

/** A linear congruential generator would repeat itself in its low bits; this is mulberry32. */
export function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

const METHODS = [
  'GET',
  'GET',
  'GET',
  'POST',
  'HEAD',
  'OPTIONS',
  'PUT',
  'CONNECT',
  'get',
  'PRI',
  'M-SEARCH',
  'X',
]
const HOSTS = [
  'a.example',
  'A.Example',
  'a.example:80',
  'b.example',
  '[::1]:8080',
  '',
  'a.example.',
  'a b',
  'ü.example',
  'a,b',
]
const SOUND_HOSTS = ['a.example', 'A.Example:80', '[::1]:8080', 'a.example.', '']
const SOUND_PATHS = ['/', '/a', '/a/b?c=/d', '/%61/../b', '//a', '/a?http://b/']
const SOUND_NAMES = ['X-A', 'cookie', 'X_A', 'HOST-X', 'X!#$%']
const PATHS = [
  '/',
  '/a',
  '/a/b?c=/d',
  '/%61/../b',
  '//a',
  '*',
  '',
  '/a#b',
  '/ü',
  '/a\tb',
  'a',
  '?a',
  '/a?b#c',
]
const NAMES = [
  'Host',
  'host',
  'HOST',
  'X-A',
  'Cookie',
  'Host ',
  ' Host',
  'X_A',
  'X\0',
  'Content-Length',
  'Transfer-Encoding',
  '',
]
const ENDS = [
  '\r\n',
  '\r\n',
  '\r\n',
  '\r\n',
  '\r\n',
  '\r\n',
  '\r\n',
  '\r\n',
  '\n',
  '\r',
  '\r\r\n',
  '\n\r\n',
  '\r\n ',
  '\r\n\t',
]
const VERSIONS = [
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.1',
  'HTTP/1.0',
  'HTTP/2.0',
  'HTTP/1.2',
  'http/1.1',
  'HTTP/0.9',
  'ICE/1.0',
  '',
]
const VALUES = [
  '1',
  'a=b; c="d"',
  'chunked',
  '0',
  ' x ',
  '\t',
  'a\0b',
  'a\rb',
  'é',
  '\x7f',
  'Host: evil.example',
]
const BYTES = ['\0', '\r', '\n', ' ', '\t', ':', ',', '/', '\x0b', '\x0c', '\x80', '\xa0', '\xff', 'H']

/** One head, in Latin-1. Most are nearly right: those that parsers disagree about are. */
export function generateHead(next: () => number): string {
  const pick = <T>(of: readonly T[]): T => of[Math.floor(next() * of.length)] as T
  const rarely = (chance: number) => next() < chance
  const either = <T>(sound: readonly T[], odd: readonly T[]) => pick(rarely(0.06) ? odd : sound)
  const end = () => (rarely(0.03) ? pick(ENDS) : '\r\n')
  const host = either(SOUND_HOSTS, HOSTS)
  const path = either(SOUND_PATHS, PATHS)
  const absolute = () =>
    `${either(['http://', 'HTTP://', 'https://'], ['ftp://', 'http:/', '//'])}${rarely(0.7) ? host : pick(HOSTS)}${path}`
  const target = rarely(0.15) ? absolute() : rarely(0.05) ? host : path
  const method = rarely(0.8) ? 'GET' : pick(METHODS)
  const blank = () => (rarely(0.01) ? pick(['  ', '\t', '']) : ' ')
  let head = rarely(0.04) ? pick(['\r\n', '\n', '\r\n\r\n', ' ', '\r']) : ''
  head += `${method}${blank()}${target}${blank()}${rarely(0.96) ? 'HTTP/1.1' : pick(VERSIONS)}${end()}`
  const lines: string[] = rarely(0.95)
    ? [`${either(['Host', 'host', 'HOST'], NAMES)}:${pick(['', ' ', ' ', '  ', '\t'])}${host}`]
    : []
  while (rarely(0.5))
    lines.splice(
      Math.floor(next() * 3),
      0,
      `${either(SOUND_NAMES, NAMES)}:${rarely(0.8) ? ' ' : ''}${either(HOSTS, VALUES)}`,
    )
  for (const line of lines) head += `${line}${end()}`
  head += rarely(0.97) ? '\r\n' : end()
  if (rarely(0.15)) {
    const at = Math.floor(next() * head.length)
    head = head.slice(0, at) + pick(BYTES) + head.slice(at + Math.floor(next() * 2))
  }
  return head
}

/** A connection that delivers these bytes, and then ends. */
class Written extends Duplex {
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    super({ allowHalfOpen: false })
    this.#bytes = bytes
  }

  override _read(): void {
    this.push(this.#bytes)
    this.push(null)
  }

  override _write(_chunk: unknown, _encoding: unknown, done: () => void): void {
    done()
  }
}

/** An `http.Server` of this Node, to which heads are given without sockets. */
export class ReferenceServer {
  readonly #server: Server
  #seen: Seen | undefined

  constructor() {
    const see = (request: IncomingMessage) => {
      this.#seen ??= { host: request.headers.host, url: request.url ?? '' }
    }
    this.#server = createServer((request, response) => {
      see(request)
      response.destroy()
    })
    this.#server.on('connect', (request: IncomingMessage, socket: Duplex) => {
      see(request)
      socket.destroy()
    })
    this.#server.on('clientError', (_error: Error, socket: Duplex) => socket.destroy())
  }

  /** The first request that it sees; undefined if it refuses the head. */
  async read(head: string): Promise<Seen | undefined> {
    this.#seen = undefined
    const connection = new Written(Buffer.from(head, 'latin1'))
    const over = new Promise((resolve) => connection.once('close', resolve))
    this.#server.emit('connection', connection)
    await over
    return this.#seen
  }
}
