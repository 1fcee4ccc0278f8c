import { setTimeout as pause } from 'node:timers/promises'
import { now } from './clock.mjs'
import { Random } from './random.mjs'

/** Kinds of victims. */
const VICTIMS = ['backend', 'worker', 'master', 'old worker', 'operator']

/** Maximum milliseconds from the beginning of a reload or a restart until the kill. */
const MOMENT = 2500
/** Maximum milliseconds without a master. */
const WITHOUT_MASTER = 1500

/**
 * Random SIGKILLs of the broker's processes, of backends and of operators' commands, one or two at a time, during reloads and restarts. Each begins when the
 * broker has recovered from the one before: with `both`, master and worker may die together, and then the counters begin again.
 */
export class Kills {
  /** By kind, such as `master` or `backend and old worker`. */
  done = {}
  processes = 0
  reloads = { done: 0, killed: 0, refused: 0 }
  restarts = 0
  /** Times of kills of workers, serving or not. */
  workersKilled = []
  /** Times without any process of the broker, [from, to]. */
  outages = []
  #random
  #fleet
  #broker
  #faults
  #patience
  #both
  #restarting = new Set()

  constructor({ seed, both }, fleet, broker, faults, patience) {
    this.#random = new Random(seed)
    this.#fleet = fleet
    this.#broker = broker
    this.#faults = faults
    this.#patience = patience
    this.#both = both
  }

  get times() {
    return { workersKilled: this.workersKilled, outages: this.outages }
  }

  /** Resolves when `count` processes have been killed, and everything else that was begun is over. */
  async run(count) {
    while (this.processes < count) {
      await this.#recovered()
      await this.#once()
    }
    await Promise.all(this.#restarting)
    await this.#recovered()
  }

  async #once() {
    const random = this.#random
    const wanted = this.#draw()
    const needsReload = wanted.includes('old worker') || wanted.includes('operator')
    const operator = needsReload || random.next() < 0.5 ? this.#broker.reload() : undefined
    if (random.next() < 0.3) this.#restart()
    await pause(random.next() * MOMENT)
    const victims = await this.#find(wanted, operator)
    if (victims.length > 0) await this.#kill(victims, operator)
    await this.#ended(operator)
  }

  /** One kind, or two different ones. */
  #draw() {
    const kinds = this.#random.shuffled(VICTIMS).slice(0, this.#random.next() < 0.5 ? 1 : 2)
    const areBoth = kinds.includes('master') && kinds.includes('worker')
    return areBoth && !this.#both ? kinds.slice(0, 1) : kinds
  }

  /** Those that are there now. */
  async #find(wanted, operator) {
    const { workers } = await this.#broker.masterStatus()
    const victims = []
    for (const kind of wanted) {
      if (kind === 'backend') {
        const [backend] = this.#random.shuffled(this.#fleet.current.filter(({ alive }) => alive))
        if (backend !== undefined) victims.push({ kind, kill: () => backend.signal('SIGKILL') })
      } else if (kind === 'operator') {
        if (operator?.running) victims.push({ kind, kill: () => operator.kill() })
      } else if (kind === 'master') {
        victims.push({ kind, kill: () => this.#broker.killMaster() })
      } else {
        const worker = workers.find(({ role }) => (role === 'serving') === (kind === 'worker'))
        if (worker !== undefined) victims.push({ kind, kill: () => process.kill(worker.pid, 'SIGKILL') })
      }
    }
    return victims
  }

  async #kill(victims, operator) {
    const kinds = victims.map(({ kind }) => kind)
    const at = now()
    // Before: a client may see it at once.
    if (kinds.some((kind) => kind.endsWith('worker'))) this.workersKilled.push(at)
    const outage = kinds.includes('master') && kinds.includes('worker') ? [at, Infinity] : undefined
    if (outage !== undefined) this.outages.push(outage)
    for (const { kill } of victims) {
      try {
        kill()
      } catch (error) {
        // It has just exited.
        if (error.code !== 'ESRCH') throw error
      }
    }
    this.processes += victims.length
    const name = kinds.toSorted().join(' and ')
    this.done[name] = (this.done[name] ?? 0) + 1
    if (kinds.includes('master')) {
      await this.#ended(operator)
      await pause(this.#random.next() * WITHOUT_MASTER)
      await this.#broker.startAgain()
    }
    if (outage !== undefined) outage[1] = now()
    if (Math.floor(this.processes / 50) > Math.floor((this.processes - victims.length) / 50))
      console.error(`${this.processes} kills, ${Math.round(performance.now() / 1000)} s`)
  }

  /** An operator's command has ended, whatever the reason. */
  async #ended(operator) {
    if (operator === undefined || operator.isCounted) return
    operator.isCounted = true
    const { code, signal } = await operator.exited
    if (signal !== null) this.reloads.killed += 1
    else if (code === 0) this.reloads.done += 1
    else this.reloads.refused += 1
  }

  #restart() {
    this.restarts += 1
    const slot = this.#random.integer(0, this.#fleet.current.length - 1)
    const over = this.#faults.run([{ at: 0, kind: 'restart', slot, lasts: 0 }])
    this.#restarting.add(over)
    void over.finally(() => this.#restarting.delete(over))
  }

  /** A master that is idle, a worker that serves, and a backend that is ready for each service. */
  async #recovered() {
    const end = performance.now() + this.#patience
    for (;;) {
      const [master, status] = [await this.#broker.masterStatus(), await this.#broker.status()]
      const isWhole = status.services.every(({ backends }) => backends.some(({ state }) => state === 'ready'))
      const isServing = master.workers.some(({ role }) => role === 'serving')
      if (master.master?.busy === null && isServing && isWhole) return
      if (performance.now() > end)
        throw new Error(`the broker has not recovered: ${JSON.stringify(master)} ${JSON.stringify(status)}`)
      await pause(50)
    }
  }
}
