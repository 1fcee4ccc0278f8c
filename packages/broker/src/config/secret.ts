import { createHash, timingSafeEqual } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { inspect } from 'node:util'

import { errnoOf } from './error.ts'

/** A token or key file is one line; more than this is some other file. */
const MAX_BYTES = 4096

/**
 * A value that must not reach a log, an error or an API answer: printing, inspecting or serialising it gives
 * `[secret]`. The text itself is there only for who asks for it by name.
 */
export class Secret {
  readonly #text: string
  readonly #digest: Buffer

  constructor(text: string) {
    this.#text = text
    this.#digest = sha256(text)
  }

  /** Compares in a time that depends on neither value; hashing first makes the lengths equal. */
  matches(candidate: string): boolean {
    return timingSafeEqual(this.#digest, sha256(candidate))
  }

  /** The text, for a header or a frame that has to carry it. */
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
 * Reads a secret from a file that only its owner may touch.
 *
 * @returns the secret, or a sentence that names the file and says what is wrong with it
 */
export function readSecretFile(path: string): Secret | string {
  let fd: number
  try {
    // O_NONBLOCK: opening a FIFO by mistake must fail the check below, not wait for a writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    return `can not read ${path}: ${errnoOf(error) ?? String(error)}`
  }
  try {
    // The mode is asked of the open descriptor: the name could point elsewhere by now.
    const stat = fstatSync(fd)
    if (!stat.isFile()) return `${path} is not a regular file`
    if ((stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, '0')
      return `${path} is open to other users (mode ${mode}); run: chmod 600 ${path}`
    }
    if (stat.size > MAX_BYTES) return `${path} has ${stat.size} bytes; a secret has at most ${MAX_BYTES}`
    const text = readFileSync(fd, 'utf8').trim()
    return text === '' ? `${path} is empty` : new Secret(text)
  } finally {
    closeSync(fd)
  }
}

function sha256(text: string): Buffer {
  return createHash('sha256').update(text, 'utf8').digest()
}
