// Folders, processes and ports of a measurement, all removed when it ends.
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The path of a program in this repository. */
export const program = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** For installed programs; kept between runs, and not in git. */
export const CACHE = program('.cache/bench')

/** Cleanups that must run however this process ends. @type {Set<() => void>} */
const leftovers = new Set()
process.once('exit', () => {
  // Newest first: a process before the folder that it writes to.
  for (const remove of [...leftovers].toReversed()) remove()
})

/** SIGHUP, SIGINT and SIGTERM clean up as well, through `exit`. */
export function endOnSignals() {
  for (const [signal, number] of Object.entries({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }))
    process.once(signal, () => process.exit(128 + number))
}

/**
 * Calls `remove`, which must be synchronous, when this process exits.
 *
 * @param {() => void} remove
 * @returns {() => void} cancels it, once the cleanup was done by other means
 */
export function atEnd(remove) {
  leftovers.add(remove)
  return () => void leftovers.delete(remove)
}

/** A folder that is removed when this process exits. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'baton-bench-'))
  atEnd(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** @returns {boolean} whether the process existed. @param {number} pid @param {NodeJS.Signals} signal */
export function kill(pid, signal) {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

/** For programs that cannot report which port they got. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
