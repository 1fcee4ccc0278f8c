// CPU time as the kernel accounts it: all threads of a process, in user and kernel mode, those that have ended included.
import { readFileSync } from 'node:fs'

/** USER_HZ of every architecture that Node runs on (proc_pid_stat(5)). */
const TICKS_PER_SECOND = 100
/** utime is field 14; behind the name, which may have spaces, field 3 is the first. */
const UTIME = 14 - 3

/** Seconds. @param {number} pid */
function secondsOf(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[UTIME]) + Number(fields[UTIME + 1])) / TICKS_PER_SECOND
}

/**
 * Seconds by role, from the start of each process.
 *
 * @param {import('./peers/peer.mjs').Peer['processes']} processes
 */
export function processorTime(processes) {
  const seconds = { broker: 0, backend: 0 }
  for (const { role, pid } of processes) seconds[role] += secondsOf(pid)
  return seconds
}

/**
 * Runs `work`, and tells what it cost the processes of a peer.
 *
 * @template T
 * @param {import('./peers/peer.mjs').Peer} peer
 * @param {() => Promise<T>} work
 */
export async function withProcessorTime({ processes }, work) {
  const before = processorTime(processes)
  const result = await work()
  const after = processorTime(processes)
  return { result, broker: after.broker - before.broker, backend: after.backend - before.backend }
}
