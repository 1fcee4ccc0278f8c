import { fstatSync, readFileSync, readlinkSync } from 'node:fs'
import { createPipe, OwnedFd } from '@baton/native-sendmsg'

/**
 * The number under which managed backends inherit the pipe. At its start Node makes descriptors close-on-exec up to the first number above
 * 15 that is not open (`uv_disable_stdio_inheritance`), so this one survives `npm start` and other Node programs in between. Shells use 10
 * and up for themselves, or 255. Checked on Node 20.20, 22.23, 24.22 and 26.12.
 */
export const LIFELINE = 50

/** Numbers of both ends, which stay the same across a re-execution of the master. */
export type LifelineState = readonly [readEnd: number, writeEnd: number]

/**
 * Shows managed backends that their master is alive: a pipe whose write end only this process has, so the kernel closes it when the process
 * ends, for whatever reason. Nothing is written to it. Owns both ends.
 */
export class Lifeline {
  readonly #readEnd: OwnedFd
  readonly #writeEnd: OwnedFd
  /** Environment variables by which a managed backend recognizes this process and the pipe. */
  readonly environment: NodeJS.ProcessEnv

  /** @param state of the previous program's lifeline; without it, a new pipe is made */
  constructor(state?: LifelineState) {
    const ends = state === undefined ? createPipe() : state.map((fd) => new OwnedFd(fd))
    ;[this.#readEnd, this.#writeEnd] = ends as [OwnedFd, OwnedFd]
    this.environment = {
      BATON_MASTER_PID: String(process.pid),
      BATON_MASTER_LIFELINE: `${LIFELINE}:${fstatSync(this.#readEnd.fd).ino}`,
      ...startOf(),
    }
  }

  /** The read end, borrowed: managed backends inherit it as LIFELINE. */
  get fd(): number {
    return this.#readEnd.fd
  }

  get state(): LifelineState {
    return [this.#readEnd.fd, this.#writeEnd.fd]
  }

  close(): void {
    this.#readEnd.close()
    this.#writeEnd.close()
  }
}

/** When this process started, in clock ticks, and its pid namespace. Neither changes with exec. Empty without /proc. */
function startOf(): NodeJS.ProcessEnv {
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1')
    const start = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
    const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/pid'))?.[0]
    return start === undefined || namespace === undefined
      ? {}
      : { BATON_MASTER_START: `${start}:${namespace}` }
  } catch {
    return {}
  }
}
