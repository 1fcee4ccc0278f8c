// What a measurement leaves behind: folders, processes and ports of its own, gone when it is.
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The path of a program of the repository. */
export const program = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** Kept from one run to the next, and not in git: what was installed. */
export const CACHE = program('.cache/bench')

/** What must not outlive this process, however it ends. @type {Set<() => void>} */
const leftovers = new Set()
process.once('exit', () => {
  // The youngest first: a process before the folder that it writes to.
  for (const remove of [...leftovers].toReversed()) remove()
})

/** Ctrl-C and a kill end what was started, too, by way of `exit`. */
export function endOnSignals() {
  for (const [signal, number] of Object.entries({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }))
    process.once(signal, () => process.exit(128 + number))
}

/**
 * Has `remove`, which must be synchronous, called at the end of this process.
 *
 * @param {() => void} remove
 * @returns {() => void} forgets it: done by other means
 */
export function atEnd(remove) {
  leftovers.add(remove)
  return () => void leftovers.delete(remove)
}

/** A folder that is gone with this process. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'baton-bench-'))
  atEnd(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** Whether it was there. @param {number} pid @param {NodeJS.Signals} signal */
export function kill(pid, signal) {
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

/** For programs that cannot be asked which port they got. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
