import { constants } from 'node:fs'
import { basename } from 'node:path'
import { isatty } from 'node:tty'
import {
  EPOLLIN,
  NativeError,
  openProcess,
  type OwnedFd,
  type Poller,
  sameOpenFile,
} from '@baton/native-sendmsg'
import { factsOf, flagsOf, openFileOf, type ProcessFacts } from '../../supervise/proc.ts'

/** A process above this one that exists to run it: `npx`, `npm run`, the shell between them. */
export type Launcher = Pick<ProcessFacts, 'pid' | 'name' | 'startedAt'>

const NULL_DEVICE = '/dev/null'
const SHELLS = new Set(['sh', 'bash', 'dash', 'ash', 'busybox', 'zsh', 'ksh', 'mksh', 'yash', 'fish'])

/**
 * The launchers of this process, nearest first: its ancestors in the same process group. A shell with job control gives each
 * command a group of its own; setsid, a service manager and a container's init do so as well, and none of them is a launcher.
 * Neither is a shell without job control (a script) that has put this process in the background: it then has /dev/null as its
 * standard input, opened by the shell (POSIX, 2.9.3). Under nohup there is no launcher at all.
 */
export function findLaunchers(): Launcher[] {
  if (isUnderNohup()) return []
  const found: Launcher[] = []
  const self = factsOf(process.pid)
  let child = self
  while (child !== undefined && child.parent > 1) {
    const parent = factsOf(child.parent)
    if (parent === undefined || parent.group !== self?.group) break
    if (SHELLS.has(parent.name) && isInBackground(child.pid, parent.pid)) break
    found.push({ pid: parent.pid, name: parent.name, startedAt: parent.startedAt })
    child = parent
  }
  return found
}

/**
 * nohup(1) ignores SIGHUP, and Node undoes that at its start. What is left of it: its name, where the shell says what it has
 * executed, and a standard input that cannot be read, which replaced a terminal.
 */
export function isUnderNohup(env: NodeJS.ProcessEnv = process.env): boolean {
  if (basename(env['_'] ?? '') === 'nohup' && !isatty(1)) return true
  const flags = flagsOf(0)
  return (
    flags !== undefined &&
    openFileOf(process.pid, 0) === NULL_DEVICE &&
    (flags & (constants.O_WRONLY | constants.O_RDWR)) === constants.O_WRONLY
  )
}

function isInBackground(child: number, shell: number): boolean {
  if (openFileOf(child, 0) !== NULL_DEVICE) return false
  if (openFileOf(shell, 0) !== NULL_DEVICE) return true
  // Both have it: inherited in the foreground, opened by the shell for the background.
  return sameOpenFile([child, 0], [shell, 0]) === false
}

/**
 * Calls `ended` once, when the first of the launchers has ended.
 *
 * @returns what ends the watch
 */
export function watchLaunchers(
  launchers: readonly Launcher[],
  poller: Poller,
  ended: (launcher: Launcher) => void,
): () => void {
  const undo: (() => void)[] = []
  const stop = () => {
    for (const each of undo.splice(0)) each()
  }
  const tell = (launcher: Launcher) => {
    stop()
    ended(launcher)
  }
  for (const launcher of launchers) {
    const fd = openLauncher(launcher)
    if (fd === undefined) {
      const told = setImmediate(() => tell(launcher))
      undo.push(() => clearImmediate(told))
      break
    }
    const watch = poller.add(fd.fd, EPOLLIN, () => tell(launcher))
    undo.push(() => {
      watch.remove()
      fd.close()
    })
  }
  return stop
}

/** Undefined when it has ended: its pid may be another process's by now. */
function openLauncher({ pid, startedAt }: Launcher): OwnedFd | undefined {
  let fd: OwnedFd
  try {
    fd = openProcess(pid)
  } catch (error) {
    if (error instanceof NativeError && error.code === 'ESRCH') return undefined
    throw error
  }
  if (factsOf(pid)?.startedAt === startedAt) return fd
  fd.close()
  return undefined
}
