import { closeSync, constants, openSync, readFileSync, readlinkSync, readSync, statSync } from 'node:fs'
import { Socket } from 'node:net'
import { isMainThread } from 'node:worker_threads'

/** Identity of the master that started this process, from the environment. */
export interface MasterMark {
  /** BATON_MASTER_PID. */
  readonly pid: number
  /**
   * BATON_MASTER_START: when the master started (field 22 of proc_pid_stat(5)) and its pid namespace. Neither changes when the
   * master replaces its own program. Undefined if the master does not set the variable.
   */
  readonly start: string | undefined
  readonly namespace: string | undefined
  /** BATON_MASTER_LIFELINE: number and inode of the read end of a pipe whose write end only the master has. */
  readonly lifeline: { readonly fd: number; readonly inode: number } | undefined
}

/** Result of one check of the master. `unknown`: this process cannot see it. */
export type MasterState = 'alive' | 'gone' | 'unknown'

/** Interval of the checks in /proc. */
const CHECK_INTERVAL_MS = 1000

/** The parent when this module was loaded; a process whose parent dies gets another one. */
export const firstParent = process.ppid

/** Reads the variables above; undefined in a process that Baton did not start. */
export function masterOf(env: NodeJS.ProcessEnv): MasterMark | undefined {
  const pid = Number(env['BATON_MASTER_PID'])
  if (!Number.isInteger(pid) || pid <= 0) return undefined
  const [, start, namespace] = /^(\d+):(\d+)$/.exec(env['BATON_MASTER_START'] ?? '') ?? []
  const [, fd, inode] = /^(\d+):(\d+)$/.exec(env['BATON_MASTER_LIFELINE'] ?? '') ?? []
  const lifeline = fd === undefined ? undefined : { fd: Number(fd), inode: Number(inode) }
  return { pid, start, namespace, lifeline }
}

/**
 * Calls `gone` once the master is gone, never before this returns. It works through shells and `npm start` between the master and
 * this process, and is not fooled by another process that later gets the master's pid.
 *
 * It watches in two ways, and the first to report wins. The pipe reports the end immediately; it survives shells, and Node, which
 * closes only low inherited numbers. The check of /proc once a second covers programs in between that close all inherited
 * descriptors. Neither keeps the process alive.
 *
 * @returns ends the watch
 */
export function watchMaster(mark: MasterMark, gone: () => void): () => void {
  let over = false
  let pipe: Socket | undefined
  const stop = () => {
    over = true
    clearInterval(checks)
    pipe?.destroy()
  }
  const report = () => {
    if (over) return
    stop()
    gone()
  }
  const lifeline = openLifeline(mark)
  if (typeof lifeline === 'number') pipe = awaitEnd(lifeline, report)
  const first = masterState(mark)
  if (lifeline === 'ended' || (lifeline === undefined && first === 'gone')) setImmediate(report)
  const checks = setInterval(() => {
    // The worker holds the pipe as well, so that this process outlives a master that is killed: the next one takes over both.
    if (pipe === undefined && masterState(mark) === 'gone') report()
  }, CHECK_INTERVAL_MS)
  checks.unref()
  return stop
}

/**
 * Opens the pipe again, as a descriptor of this process's own; `ended` if no process has its write end, undefined if the pipe was not
 * inherited. The inherited descriptor stays open for this process's children.
 */
function openLifeline({ lifeline }: MasterMark): number | 'ended' | undefined {
  // When a Worker ends, it closes every descriptor that `fs` opened in it, even one that a socket has already closed.
  if (lifeline === undefined || !isMainThread) return undefined
  let fd: number
  try {
    const { fd: inherited, inode } = lifeline
    // Not by fstat(2), as in native-sendmsg's lock-file.ts.
    const found = statSync(`/proc/self/fd/${inherited}`)
    if (!found.isFIFO() || found.ino !== inode) return undefined
    // Not a duplicate: O_NONBLOCK belongs to the open file description, which other processes share.
    fd = openSync(`/proc/self/fd/${inherited}`, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch {
    return undefined
  }
  if (!isAtEnd(fd)) return fd
  closeSync(fd)
  return 'ended'
}

/** If a pipe had no writer when it was opened, epoll never reports its end (fifo(7)), but read(2) does. */
function isAtEnd(fd: number): boolean {
  try {
    return readSync(fd, Buffer.alloc(1)) === 0
  } catch {
    // EAGAIN: there is a writer.
    return false
  }
}

/** Takes ownership of `fd`. */
function awaitEnd(fd: number, ended: () => void): Socket {
  const pipe = new Socket({ fd, readable: true, writable: false })
  pipe.on('end', ended).on('error', () => {}) // The checks in /proc continue.
  pipe.resume()
  pipe.unref()
  return pipe
}

/** Checks the master by its pid and /proc. */
export function masterState({ pid, start, namespace }: MasterMark): MasterState {
  // Known without /proc if the master was the parent.
  if (pid === firstParent && process.ppid !== firstParent) return 'gone'
  // In another pid namespace the pid means another process.
  if (start === undefined || namespace !== ownNamespace()) return 'unknown'
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 'gone'
  }
  const found = stateOf(pid)
  // /proc may hide other users' processes (hidepid).
  if (found === undefined) return 'unknown'
  return found.start === start && found.state !== 'Z' && found.state !== 'X' ? 'alive' : 'gone'
}

function stateOf(pid: number): { state: string | undefined; start: string | undefined } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The process name, in parentheses before these fields, may itself contain parentheses and blanks.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { state: fields[0], start: fields[19] }
  } catch {
    return undefined
  }
}

let namespace: string | undefined

/** Inode of this process's pid namespace; empty when it cannot be read. */
function ownNamespace(): string {
  try {
    return (namespace ??= /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0] ?? '')
  } catch {
    return ''
  }
}
