import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { type Address, parseAddress } from './address.ts'
import { ConfigError, errnoOf } from './error.ts'
import { parseJson } from './json.ts'
import type { Secret } from './secret.ts'

// The file of a configuration, without what it may contain: most commands need no more than the runtime folder.

/**
 * The runtime folder of the broker that uses this configuration file. Works with an invalid file too, so that the operator can
 * still stop the broker after a bad edit.
 *
 * @throws ConfigError if the file cannot be read, or is not JSON
 */
export function locateRuntimeDir(path: string): string {
  const { runtimeDir }: { runtimeDir?: unknown } = Object(located(path))
  return typeof runtimeDir === 'string' ? resolve(dirname(resolve(path)), runtimeDir) : defaultRuntimeDir()
}

/** Where the admin server listens by default. */
export const DEFAULT_ADMIN_ADDRESS = '127.0.0.1:9180'

/** All that it takes to ask a running broker. */
export interface BrokerPlace {
  /** The file it was read from, as given by the caller. */
  readonly file: string | undefined
  /** Absolute path. */
  readonly runtimeDir: string
  readonly admin: { readonly listen: Address; readonly token: Secret | null }
}

/**
 * As `locateRuntimeDir`, and where the broker answers.
 *
 * @returns undefined if the file does not say it in the usual form: then all of it must be checked, which takes longer
 * @throws ConfigError if the file cannot be read, or is not JSON
 */
export function locateBroker(path: string): BrokerPlace | undefined {
  const { admin = {} }: { admin?: unknown } = Object(located(path))
  const { listen = DEFAULT_ADMIN_ADDRESS, tokenFile = null }: Record<string, unknown> = Object(admin)
  if (typeof listen !== 'string' || tokenFile !== null) return undefined
  const address = parseAddress(listen)
  if (typeof address === 'string') return undefined
  return { file: path, runtimeDir: locateRuntimeDir(path), admin: { listen: address, token: null } }
}

/**
 * As `locateRuntimeDir`, and the services that the file names: whether Baton starts their backends, and how many.
 *
 * @throws ConfigError if the file cannot be read, or is not JSON
 */
export function locateServices(path: string): {
  runtimeDir: string
  services: ReadonlyMap<string, { readonly managed: boolean; readonly instances: number }>
} {
  const { services }: { services?: unknown } = Object(located(path))
  const facts = Object.entries(Object(services)).map(([name, service]) => {
    const { command, instances }: { command?: unknown; instances?: unknown } = Object(service)
    return [
      name,
      { managed: Array.isArray(command), instances: typeof instances === 'number' ? instances : 1 },
    ] as const
  })
  return { runtimeDir: locateRuntimeDir(path), services: new Map(facts) }
}

/** Reads a file in which a key is looked up: most have neither comments nor errors, and need no parser that knows of these. */
function located(path: string): unknown {
  const text = readConfigText(path)
  try {
    return JSON.parse(text) as unknown
  } catch {
    return parseFile(text, path)
  }
}

/** @throws ConfigError if the file is missing or unreadable */
export function readConfigText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError(path, [{ path: '', message: unreadable(error) }])
  }
}

/**
 * Like `readConfigText`, for a process that must not block: opening a FIFO waits for a writer, and some devices never reach EOF.
 *
 * @throws ConfigError also if it is not a regular file
 */
export function readConfigTextAtOnce(path: string): string {
  let fd: number | undefined
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
    if (fstatSync(fd).isFile()) return readFileSync(fd, 'utf8')
  } catch (error) {
    throw new ConfigError(path, [{ path: '', message: unreadable(error) }])
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
  throw new ConfigError(path, [{ path: '', message: 'not a regular file; a reload cannot read it' }])
}

/** @throws ConfigError with line and column if it is not JSON */
export function parseFile(text: string, path: string): unknown {
  const json = parseJson(text)
  if (json.ok) return json.value
  const message = `line ${json.line}, column ${json.column}: ${json.message}`
  throw new ConfigError(path, [{ path: '', message }])
}

const UNREADABLE = new Map([
  [
    'ENOENT',
    'no such file; "baton init" writes one, "baton ls" lists brokers that run, --config FILE names another',
  ],
  ['EACCES', 'no permission to read the file (EACCES)'],
  ['EISDIR', 'is a folder, not a file'],
])

function unreadable(error: unknown): string {
  return UNREADABLE.get(errnoOf(error) ?? '') ?? `cannot be read: ${String(error)}`
}

/** $XDG_RUNTIME_DIR is private to the user by specification; otherwise the uid in the name separates users. */
export function defaultRuntimeDir(): string {
  const xdg = process.env['XDG_RUNTIME_DIR']
  // The XDG specification requires that a relative path be ignored.
  if (xdg?.startsWith('/') === true) return join(xdg, 'baton')
  return join(tmpdir(), `baton-${process.getuid?.() ?? 'user'}`)
}
