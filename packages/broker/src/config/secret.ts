import { createHash, timingSafeEqual } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { inspect } from 'node:util'

import { errnoOf } from './error.ts'

/** A token or key file is one line; a larger file is presumably the wrong one. */
const MAX_BYTES = 4096

/**
 * A value that must not appear in a log, an error or an API response: printing, inspecting or serialising it gives
 * `[secret]`. Only `reveal()` returns the text.
 */
export class Secret {
  readonly #text: string
  readonly #digest: Buffer

  constructor(text: string) {
    this.#text = text
    this.#digest = sha256(text)
  }

  /** Constant-time comparison; hashing first makes the lengths equal. */
  matches(candidate: string): boolean {
    return timingSafeEqual(this.#digest, sha256(candidate))
  }

  /** The text, to be sent in a header or a frame. */
  reveal(): string {
    return this.#text
  }

  toString(): string {
    return '[secret]'
  }

  toJSON(): string {
    return '[secret]'
  }

  [inspect.custom](): string {
    return '[secret]'
  }
}

/**
 * Reads a secret from a file to which only its owner has access.
 *
 * @returns the secret, or an error message that names the file
 */
export function readSecretFile(path: string): Secret | string {
  let fd: number
  try {
    // O_NONBLOCK: opening a FIFO by mistake must fail the check below, not wait for a writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    return `cannot read ${path}: ${errnoOf(error) ?? String(error)}`
  }
  try {
    // fstat, not stat: the name could refer to another file by now.
    const stat = fstatSync(fd)
    if (!stat.isFile()) return `${path} is not a regular file`
    if ((stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0')
      return `${path} is accessible to other users (mode ${mode}); run: chmod 600 ${path}`
    }
    if (stat.size > MAX_BYTES) return `${path} has ${stat.size} bytes; a secret may have at most ${MAX_BYTES}`
    const text = readFileSync(fd, 'utf8').trim()
    return text === '' ? `${path} is empty` : new Secret(text)
  } finally {
    closeSync(fd)
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text, 'utf8').digest()
}
