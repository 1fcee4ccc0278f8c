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

/** An ancestor that only exists to run this process: `npx`, `npm run`, the shell between them. */
export type Launcher = Pick<ProcessFacts, 'pid' | 'name' | 'startedAt'>

const NULL_DEVICE = '/dev/null'
const SHELLS = new Set(['sh', 'bash', 'dash', 'ash', 'busybox', 'zsh', 'ksh', 'mksh', 'yash', 'fish'])

/**
 * The launchers of this process, nearest first: its ancestors in the same process group. A shell with job control gives each
 * command its own group; so do setsid, a service manager and a container's init, and none of them is a launcher.
 * Nor is a shell without job control (a script) that started this process in the background: standard input is then /dev/null,
 * opened by the shell (POSIX, 2.9.3). Under nohup there are no launchers.
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
 * nohup(1) ignores SIGHUP, which Node undoes when it starts. Two traces are left: its name in `_`, where the shell puts the command
 * it executes, and an unreadable standard input instead of a terminal.
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
  // Both have /dev/null: inherited in the foreground, opened by the shell for the background.
  return sameOpenFile([child, 0], [shell, 0]) === false
}

/**
 * Calls `ended` once, when the first of the launchers has ended.
 *
 * @returns stops watching
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
  const finish = (launcher: Launcher) => {
    stop()
    ended(launcher)
  }
  for (const launcher of launchers) {
    const fd = openLauncher(launcher)
    if (fd === undefined) {
      const immediate = setImmediate(() => finish(launcher))
      undo.push(() => clearImmediate(immediate))
      break
    }
    const watch = poller.add(fd.fd, EPOLLIN, () => finish(launcher))
    undo.push(() => {
      watch.remove()
      fd.close()
    })
  }
  return stop
}

/** Undefined when the launcher has ended. Its pid may belong to another process by now. */
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
