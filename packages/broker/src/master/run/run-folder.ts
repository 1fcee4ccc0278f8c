import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { MAX_UNIX_PATH_BYTES } from '../../config/address.ts'
import { errnoOf } from '../../config/error.ts'
import { BrokerError } from '../../errors.ts'

const TEMPLATE = 'baton-run-'
/** Room for what mkdtemp(3) appends and for the longest socket name in the folder: a relay endpoint of a backend. */
const MAX_REST_BYTES = `${TEMPLATE}XXXXXX/relay-000000000000.sock`.length

/**
 * Creates the folder of one `baton run`, for its configuration and its sockets.
 *
 * @throws {BrokerError} BATON_ERR_TEMPORARY_FOLDER
 */
export function makeRunFolder(): string {
  const parent = resolve(tmpdir())
  const bytes = Buffer.byteLength(join(parent, '/')) + MAX_REST_BYTES
  if (bytes > MAX_UNIX_PATH_BYTES) {
    const most = MAX_UNIX_PATH_BYTES - MAX_REST_BYTES - 1
    throw unusable(
      parent,
      `is ${Buffer.byteLength(parent)} bytes long, and the paths of sockets in it leave room for ${most}`,
    )
  }
  try {
    return mkdtempSync(join(parent, TEMPLATE))
  } catch (error) {
    throw unusable(parent, REASONS.get(errnoOf(error) ?? '') ?? `cannot be used: ${String(error)}`, error)
  }
}

const REASONS = new Map([
  ['ENOENT', 'does not exist (ENOENT)'],
  ['ENOTDIR', 'is not a folder (ENOTDIR)'],
  ['EACCES', 'is not writable by this user (EACCES)'],
  ['EPERM', 'is not writable by this user (EPERM)'],
  ['EROFS', 'is on a read-only file system (EROFS)'],
  ['ENOSPC', 'is on a full file system (ENOSPC)'],
])

function unusable(parent: string, why: string, cause?: unknown): BrokerError {
  const named = ['TMPDIR', 'TMP', 'TEMP'].find((name) => (process.env[name] ?? '') !== '')
  const folder = named === undefined ? parent : `${named}=${process.env[named] ?? ''}`
  return new BrokerError('BATON_ERR_TEMPORARY_FOLDER', `${folder} ${why}; set TMPDIR to another folder`, {
    cause,
  })
}
