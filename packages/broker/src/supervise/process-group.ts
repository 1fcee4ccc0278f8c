/**
 * Signals a process and everything that it has started and that has stayed in its group: it was started as the leader of one.
 * The leader's pid names the group for as long as anybody is left in it, and is given to nobody else before (credentials(7)).
 */
export function signalGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal)
  } catch {
    // ESRCH: nobody is left. EPERM: they have become other users'. ChildProcess tells no more than that either.
  }
}
