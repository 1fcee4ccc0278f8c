import { closeSync, constants, fstatSync, openSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import { Socket } from 'node:net'
import { isMainThread } from 'node:worker_threads'

/** How a process that Baton started knows its master again, from its environment. */
export interface MasterMark {
  /** BATON_MASTER_PID. */
  readonly pid: number
  /**
   * BATON_MASTER_START: when the master started (field 22 of proc_pid_stat(5)) and its pid namespace. Both stay the same when the
   * master replaces its own program. Undefined for a master that does not announce it.
   */
  readonly start: string | undefined
  readonly namespace: string | undefined
  /** BATON_MASTER_LIFELINE: number and inode of the read end of a pipe whose write end no process but the master has. */
  readonly lifeline: { readonly fd: number; readonly inode: number } | undefined
}

/** What one look at the master shows. `unknown`: it cannot be seen from here. */
export type MasterState = 'alive' | 'gone' | 'unknown'

/** Time from one look at the master to the next, in milliseconds. */
const CHECK_INTERVAL_MS = 1000

/** When this module was loaded: a process whose parent dies is given another one. */
export const firstParent = process.ppid

/** Undefined for a process that Baton did not start. */
export function masterOf(env: NodeJS.ProcessEnv): MasterMark | undefined {
  const pid = Number(env['BATON_MASTER_PID'])
  if (!Number.isInteger(pid) || pid <= 0) return undefined
  const [, start, namespace] = /^(\d+):(\d+)$/.exec(env['BATON_MASTER_START'] ?? '') ?? []
  const [, fd, inode] = /^(\d+):(\d+)$/.exec(env['BATON_MASTER_LIFELINE'] ?? '') ?? []
  const lifeline = fd === undefined ? undefined : { fd: Number(fd), inode: Number(inode) }
  return { pid, start, namespace, lifeline }
}

/**
 * Calls `gone` once the master is gone, never before this returns. It does not matter what lies between the master and this process
 * (a shell, `npm start`), and a process that gets the master's pid afterwards is not taken for it.
 *
 * Two ways, and the first that tells is believed: the pipe ends at once, and survives shells and Node, which closes low numbers alone;
 * a look at /proc each second, for a program in between that closes what it does not know. Neither keeps the process alive.
 *
 * @returns ends the watch
 */
export function watchMaster(mark: MasterMark, gone: () => void): () => void {
  let over = false
  let pipe: Socket | undefined
  const stop = () => {
    over = true
    clearInterval(looks)
    pipe?.destroy()
  }
  const tell = () => {
    if (over) return
    stop()
    gone()
  }
  const lifeline = openLifeline(mark)
  if (typeof lifeline === 'number') pipe = awaitEnd(lifeline, tell)
  const first = masterState(mark)
  if (lifeline === 'ended' || (lifeline === undefined && first === 'gone')) setImmediate(tell)
  const looks = setInterval(() => {
    // A first look that the pipe contradicts proves that looks are worth nothing here: a time namespace, say.
    if ((first === 'alive' || pipe === undefined) && masterState(mark) === 'gone') tell()
  }, CHECK_INTERVAL_MS)
  looks.unref()
  return stop
}

/**
 * This process's own descriptor of the pipe; `ended` when no process holds its write end; undefined when it was not inherited. The
 * inherited number stays as it is, for this process's children.
 */
function openLifeline({ lifeline }: MasterMark): number | 'ended' | undefined {
  // A Worker closes by itself, at its end, what `fs` has opened in it, also when a socket has closed it before.
  if (lifeline === undefined || !isMainThread) return undefined
  let fd: number
  try {
    const { fd: inherited, inode } = lifeline
    const found = fstatSync(inherited)
    if (!found.isFIFO() || found.ino !== inode) return undefined
    // Not a duplicate: O_NONBLOCK belongs to the open file, which other processes have, too.
    fd = openSync(`/proc/self/fd/${inherited}`, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch {
    return undefined
  }
  if (!isAtEnd(fd)) return fd
  closeSync(fd)
  return 'ended'
}

/** A pipe that had no writer when it was opened never reports its end to epoll (fifo(7)), but to read(2). */
function isAtEnd(fd: number): boolean {
  try {
    return readSync(fd, Buffer.alloc(1)) === 0
  } catch {
    // EAGAIN.
    return false
  }
}

/** Owns `fd`. */
function awaitEnd(fd: number, ended: () => void): Socket {
  const pipe = new Socket({ fd, readable: true, writable: false })
  pipe.on('end', ended).on('error', () => {}) // The looks go on.
  pipe.resume()
  pipe.unref()
  return pipe
}

/** Whether the master can be seen, in /proc. */
export function masterState({ pid, start, namespace }: MasterMark): MasterState {
  // A child of the master needs no /proc.
  if (pid === firstParent && process.ppid !== firstParent) return 'gone'
  // The pid is another process's in another namespace.
  if (start === undefined || namespace !== ownNamespace()) return 'unknown'
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 'gone'
  }
  const found = stateOf(pid)
  // /proc may hide the processes of other users.
  if (found === undefined) return 'unknown'
  return found.start === start && found.state !== 'Z' && found.state !== 'X' ? 'alive' : 'gone'
}

function stateOf(pid: number): { state: string | undefined; start: string | undefined } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name before it may contain anything, parentheses and blanks included.
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
