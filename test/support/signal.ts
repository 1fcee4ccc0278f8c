import { readFileSync } from 'node:fs'

/**
 * Sends a signal to one process. This is the only way in which a test does so: to kill(2) the process 0 is the whole
 * group of the test run and -1 is all that the user has, and either is what a pid that was not found becomes.
 *
 * @throws {TypeError} if `pid` is not the number of a process other than init
 */
export function signal(pid: number | null | undefined, name: NodeJS.Signals): void {
  process.kill(single(pid), name)
}

/** The same to a process group, by the pid of its leader: what Ctrl-C does. */
export function signalGroup(leader: number | null | undefined, name: NodeJS.Signals): void {
  process.kill(-single(leader), name)
}

/** Whether there is such a process. A zombie is none: its parent has only not looked yet. */
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
