/** As it was when this module was loaded: a process whose parent dies is given another one. */
const parent = process.ppid

/**
 * Whether the master that started this process (BATON_MASTER_PID) is dead. Nobody would replace or stop this process any more,
 * and the next master starts others. False for a process that Baton did not start itself, or started through a shell.
 */
export function isOrphaned(env: NodeJS.ProcessEnv): boolean {
  return env['BATON_MASTER_PID'] === String(parent) && process.ppid !== parent
}

let guarded = false

/**
 * The output of a process that Baton has started is read by its master. When that is killed, a line of log must not end the
 * process and the connections that it has: an EPIPE that nobody listens for does.
 */
export function outliveReader(env: NodeJS.ProcessEnv): void {
  if (guarded || env['BATON_MASTER_PID'] === undefined) return
  guarded = true
  for (const output of [process.stdout, process.stderr]) {
    output.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
    })
  }
}
