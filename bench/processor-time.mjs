// CPU time as accounted by the kernel: all threads of a process, exited ones included, in user and kernel mode.
import { readdirSync, readFileSync } from 'node:fs'

/** USER_HZ on every architecture that Node supports (proc_pid_stat(5)). */
const TICKS_PER_SECOND = 100
/** utime is field 14; the first field after the name, which may contain spaces, is field 3. */
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
 * Runs `work` and returns its cost in the processes of a peer.
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

/**
 * Microseconds that the threads of these processes have run, to the nanosecond (/proc/PID/task/TID/schedstat). For differences: it forgets
 * threads that exit.
 *
 * @param {readonly number[]} pids
 */
export function runningTime(pids) {
  let nanoseconds = 0
  for (const pid of pids)
    for (const thread of readdirSync(`/proc/${pid}/task`))
      nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0])
  return nanoseconds / 1000
}
