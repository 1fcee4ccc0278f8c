import { readFileSync } from 'node:fs'

/**
 * Sends a signal to one process; tests send signals in no other way. For kill(2), 0 is the whole process
 * group of the test run and -1 every process of the user, and a pid that was not found can become either.
 *
 * @throws {TypeError} if `pid` is not the number of a process other than init
 */
export function signal(pid: number | null | undefined, name: NodeJS.Signals): void {
  process.kill(single(pid), name)
}

/** The same for a process that may have ended meanwhile. */
export function signalIfThere(pid: number, name: NodeJS.Signals): void {
  try {
    signal(pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** The same for a process group, by the pid of its leader, like Ctrl-C. */
export function signalGroup(leader: number | null | undefined, name: NodeJS.Signals): void {
  process.kill(-single(leader), name)
}

/** Whether the process exists. A zombie does not count: it has exited, and only its parent has not reaped it yet. */
export function exists(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${single(pid)}/status`, 'utf8'))
  } catch (error) {
    if (error instanceof TypeError) throw error
    return false
  }
}

function single(pid: number | null | undefined): number {
  if (!Number.isInteger(pid) || Number(pid) <= 1) throw new TypeError(`${pid} is not the pid of a process`)
  return Number(pid)
}
