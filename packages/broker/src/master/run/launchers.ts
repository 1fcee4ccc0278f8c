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
import { argumentsOf, factsOf, flagsOf, openFileOf, type ProcessFacts } from '../../supervise/proc.ts'

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

/** Programs that run a command of a package, and end at SIGTERM although that command goes on: the shell that they start it with keeps the signal. */
const PACKAGE_RUNNERS = new Set(['npm', 'npx', 'pnpm', 'pnpx', 'yarn', 'yarnpkg', 'bun', 'bunx'])

/**
 * The launchers that a daemon has too, nearest first: `npx` and its like, and shells between them and this process. Any other program
 * may end and mean the daemon to stay. With a terminal there are none: Ctrl-C reaches the whole process group, and a daemon survives the end of
 * the terminal.
 */
export function findPackageRunners(): Launcher[] {
  if (factsOf(process.pid)?.terminal !== false) return []
  const launchers = findLaunchers()
  const other = launchers.findIndex(
    ({ pid, name }) => !SHELLS.has(name) && !isPackageRunner(argumentsOf(pid)),
  )
  const chain = other === -1 ? launchers : launchers.slice(0, other)
  const outermost = chain.findLastIndex(({ pid }) => isPackageRunner(argumentsOf(pid)))
  return chain.slice(0, outermost + 1)
}

/** @param args as `argumentsOf` returns them: npm has a title, such as `npm exec baton start` */
export function isPackageRunner(args: readonly string[]): boolean {
  const [program = '', script = ''] = args.length === 1 ? (args[0] as string).split(' ') : args
  if (PACKAGE_RUNNERS.has(nameOf(program))) return true
  return nameOf(program) === 'node' && (script === '--run' || PACKAGE_RUNNERS.has(nameOf(script)))
}

/** Of a program: `npm-cli.js` is npm. */
function nameOf(path: string): string {
  return basename(path)
    .replace(/\.[cm]?js$/, '')
    .replace(/-cli$/, '')
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

/** Stops the broker when the first of its launchers has ended. */
export class LauncherWatch {
  readonly launchers: readonly Launcher[]
  readonly #poller: Poller
  readonly #stop: (reason: string) => void
  readonly #undo: (() => void)[] = []
  #over = false

  /** @param stop called at most once */
  constructor(launchers: readonly Launcher[], poller: Poller, stop: (reason: string) => void) {
    this.launchers = launchers
    this.#poller = poller
    this.#stop = stop
  }

  /** Call when the broker serves. */
  begin(): void {
    if (this.#over) return
    for (const launcher of this.launchers) {
      const fd = openLauncher(launcher)
      if (fd === undefined) {
        const immediate = setImmediate(() => this.#ended(launcher))
        this.#undo.push(() => clearImmediate(immediate))
        break
      }
      const watch = this.#poller.add(fd.fd, EPOLLIN, () => this.#ended(launcher))
      this.#undo.push(() => {
        watch.remove()
        fd.close()
      })
    }
  }

  end(): void {
    this.#over = true
    for (const undo of this.#undo.splice(0)) undo()
  }

  #ended({ name, pid }: Launcher): void {
    this.end()
    this.#stop(`${name.trim()} (pid ${pid}), which started the broker, has exited`)
  }
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
