// Finds the processes started by a test run through a mark in the environment, which children inherit whatever their group or
// session. Run as a program, `leftovers.mjs RUN FOLDER`, it waits for its standard input to close, that is for the
// runner's death from any cause, then ends the processes of that run and removes its folder.
import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The variable whose value is `RUN.FILE`: the run, and its test file. */
export const MARK = 'TEST_FILE'

/**
 * @param {string} value the mark's whole value, or the run
 * @returns {{ pid: number, command: string }[]} processes with this mark, except zombies and this process
 */
export function processesOf(value) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .flatMap((pid) => {
      const variables = read(`/proc/${pid}/environ`).split('\0')
      // Not by its beginning: file 1 of a run would end the processes of file 10.
      const isMarked = (variable) =>
        variable === `${MARK}=${value}` || variable.startsWith(`${MARK}=${value}.`)
      if (!variables.some(isMarked)) return []
      return { pid: Number(pid), command: read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() }
    })
}

/** Kills them, and returns once none of them can run any longer. */
export async function endAll(value) {
  for (;;) {
    const processes = processesOf(value)
    if (processes.length === 0) return
    for (const { pid } of processes) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch (error) {
        if (error.code !== 'ESRCH') throw error
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** Empty for a process that has exited meanwhile, and for one of another user. */
function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [run, folder] = process.argv.slice(2)
  await once(process.stdin.resume(), 'end')
  await endAll(run)
  rmSync(folder, { recursive: true, force: true })
}
