import { EPOLLIN, openProcess, type OwnedFd, type Poller, reap, type Watch } from '@baton/native-sendmsg'
import { signalGroup } from './process-group.ts'
import type { ProcessExit } from './processes.ts'

/** The half of a process that its parent alone can do. */
export interface ProcessHandle {
  signal(signal: NodeJS.Signals): void
  release(): void
}

/**
 * A child of the image that this process had before: Node knows nothing of it. A pidfd becomes readable when it has
 * ended (pidfd_open(2)), and the pid is not given away before it is reaped.
 */
export class InheritedProcess implements ProcessHandle {
  readonly #pid: number
  readonly #process: OwnedFd
  readonly #watch: Watch

  constructor(pid: number, poller: Poller, ended: (exit: ProcessExit) => void) {
    this.#pid = pid
    this.#process = openProcess(pid)
    try {
      this.#watch = poller.add(this.#process.fd, EPOLLIN, () => {
        const exit = howItEnded(pid)
        if (exit === undefined) return
        this.release()
        ended(exit)
      })
    } catch (error) {
      this.#process.close()
      throw error
    }
  }

  signal(signal: NodeJS.Signals): void {
    try {
      process.kill(this.#pid, signal)
    } catch {
      // EPERM: it has become another user's. ChildProcess tells no more than that either.
    }
    if (signal === 'SIGKILL') signalGroup(this.#pid, signal)
  }

  release(): void {
    this.#watch.remove()
    this.#process.close()
  }
}

/** Undefined while it lives. */
function howItEnded(pid: number): ProcessExit | undefined {
  try {
    return reap(pid)
  } catch (error) {
    // ECHILD: somebody else has reaped it. That it has ended is certain all the same.
    return { code: null, signal: null, error: String(error) }
  }
}
