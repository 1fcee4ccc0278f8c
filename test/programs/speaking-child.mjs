// A child process that prints one JSON object per line (`{"msg":...}`) and takes commands on stdin. For programs that run
// others. It exits with its parent if it exits when its stdin closes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

export class SpeakingChild {
  #process
  #received = new Map()
  #waiting = new Map()

  /** `program`: a Node program unless `runtime` is empty; arguments and environment as for `spawn`. */
  constructor(program, { args = [], env = {}, wrapper = [], runtime = [process.execPath] } = {}) {
    const [command, ...rest] = [...wrapper, ...runtime, program, ...args]
    this.#process = spawn(command, rest, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...env },
    })
    // It may be killed while commands are still in the pipe.
    this.#process.stdin.on('error', () => {})
    this.exited = once(this.#process, 'exit').then(([code, signal]) => {
      const end = new Error(`${program} ended (${signal ?? code})`)
      for (const { reject } of this.#waiting.values()) reject(end)
      this.#waiting.clear()
    })
    createInterface({ input: this.#process.stdout }).on('line', (line) => this.#receive(line))
  }

  get pid() {
    return this.#process.pid
  }

  tell(line) {
    this.#process.stdin.write(`${line}\n`)
  }

  kill(signal) {
    this.#process.kill(signal)
  }

  /** The next object with this `msg`, or the last one that was not returned yet. Rejects if the process exits first. */
  message(msg) {
    const message = this.#received.get(msg)
    if (message !== undefined) {
      this.#received.delete(msg)
      return Promise.resolve(message)
    }
    return new Promise((resolve, reject) => this.#waiting.set(msg, { resolve, reject }))
  }

  #receive(line) {
    if (!line.startsWith('{')) return
    const object = JSON.parse(line)
    const waiting = this.#waiting.get(object.msg)
    this.#waiting.delete(object.msg)
    if (waiting === undefined) this.#received.set(object.msg, object)
    else waiting.resolve(object)
  }
}
