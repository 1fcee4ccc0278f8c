// A child process that prints one JSON object per line (`{"msg":...}`) and takes commands on stdin. For programs that run
// others. It exits with its parent if it exits when its stdin closes.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

export class SpeakingChild {
  #process
  #said = new Map()
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
    createInterface({ input: this.#process.stdout }).on('line', (line) => this.#hear(line))
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

  /** The next object with this `msg`, or the last one that was not asked for yet; rejects if the process exits first. */
  heard(msg) {
    const said = this.#said.get(msg)
    if (said !== undefined) {
      this.#said.delete(msg)
      return Promise.resolve(said)
    }
    return new Promise((resolve, reject) => this.#waiting.set(msg, { resolve, reject }))
  }

  #hear(line) {
    if (!line.startsWith('{')) return
    const object = JSON.parse(line)
    const waiting = this.#waiting.get(object.msg)
    this.#waiting.delete(object.msg)
    if (waiting === undefined) this.#said.set(object.msg, object)
    else waiting.resolve(object)
  }
}
