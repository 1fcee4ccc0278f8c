import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { parseEnv } from 'node:util'
import { errnoOf } from './error.ts'

/** Maximum bytes of a file. The kernel takes 128 KiB for one variable, and little more for all. */
const MAX_BYTES = 64 * 1024

const ASSIGNMENT = /^\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(["'`]?)/

export type EnvFile =
  | { readonly ok: true; readonly variables: Readonly<Record<string, string>> }
  /** For people; without any of the content, which may be secret. */
  | { readonly ok: false; readonly problem: string }

/**
 * Reads a file of variables in the format of `node --env-file`. Node skips lines that it cannot read, such as a misspelt one; here they are
 * an error.
 */
export function readEnvFile(path: string): EnvFile {
  const refuse = (why: string): EnvFile => ({ ok: false, problem: `${path}: ${why}` })
  let fd: number
  try {
    // Without waiting for the other end of a named pipe.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    const errno = errnoOf(error)
    return refuse(errno === 'ENOENT' ? 'no such file' : `cannot be read (${errno ?? String(error)})`)
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) return refuse('is not a file')
    if (stat.size > MAX_BYTES) return refuse(`has ${stat.size} bytes; at most ${MAX_BYTES} are read`)
    const text = readFileSync(fd, 'utf8')
    const names = namesIn(text)
    if (typeof names === 'string') return refuse(names)
    const variables = parseEnv(text) as Record<string, string>
    const other = names.find(([name]) => !Object.hasOwn(variables, name))
    if (other !== undefined) return refuse(`line ${other[1]}: cannot be read as NAME=value`)
    return { ok: true, variables }
  } catch (error) {
    return refuse(`cannot be read (${errnoOf(error) ?? String(error)})`)
  } finally {
    closeSync(fd)
  }
}

/** @returns each variable with its line, or the problem */
function namesIn(text: string): (readonly [name: string, line: number])[] | string {
  const lines = text.replace(/^\uFEFF/, '').split(/\r?\n/)
  const names: (readonly [string, number])[] = []
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? ''
    if (/^\s*(?:#|$)/.test(line)) continue
    const number = at + 1
    if (line.includes('\0')) return `line ${number}: contains a NUL byte`
    const [begin, name, quote] = ASSIGNMENT.exec(line) ?? []
    if (begin === undefined || name === undefined) return `line ${number}: expected NAME=value, or a comment`
    names.push([name, number])
    if (quote === undefined || quote === '') continue
    let rest = line.slice(begin.length)
    while (!rest.includes(quote)) {
      at += 1
      const next = lines[at]
      if (next === undefined) return `line ${number}: the quote is not closed`
      if (next.includes('\0')) return `line ${at + 1}: contains a NUL byte`
      rest = next
    }
    if (!/^\s*(?:#.*)?$/.test(rest.slice(rest.indexOf(quote) + 1)))
      return `line ${at + 1}: expected nothing behind the quote`
  }
  return names
}
