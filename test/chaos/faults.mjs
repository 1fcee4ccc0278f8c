import { setTimeout as pause } from 'node:timers/promises'
import { now } from './clock.mjs'

/** On a busy machine a process takes a while to start: so long a fault waits for its victim, in milliseconds. */
const RECOVERY = 4000

/** A drained backend has this long to end by itself after its deadline, in milliseconds. */
const LEAVE = 20_000

/**
 * Does to the fleet what the schedule says, and counts it by kind. `missed` are the faults whose victim was still starting, or leaving already;
 * `complaints` say of whom a fault was the last that was heard.
 */
export class Faults {
  done = {}
  missed = 0
  complaints = []
  #fleet
  #broker
  #deadline

  /** @param deadline of drains, milliseconds */
  constructor(fleet, broker, deadline) {
    this.#fleet = fleet
    this.#broker = broker
    this.#deadline = deadline
  }

  /** Resolves when the last fault is over. */
  async run(schedule) {
    const start = performance.now()
    const running = []
    for (const fault of schedule) {
      await pause(Math.max(0, start + fault.at - performance.now()))
      running.push(this.#strike(fault))
    }
    await Promise.all(running)
  }

  async #strike({ kind, slot, lasts }) {
    if (kind === 'kill all') {
      this.#count(kind)
      for (const backend of this.#fleet.current) backend.signal('SIGKILL')
      return
    }
    const backend = this.#fleet.current[slot]
    const ready = (await Promise.race([backend.ready, pause(RECOVERY)])) === true && backend.alive
    // It can leave only once.
    const leaves = backend.drain !== undefined && (kind === 'drain' || kind === 'restart')
    if (!ready || leaves) {
      this.missed += 1
      return
    }
    this.#count(kind)
    await this.#does[kind](backend, lasts)
  }

  #does = {
    kill: (backend) => backend.signal('SIGKILL'),
    stop: async (backend, lasts) => {
      backend.signal('SIGSTOP')
      await pause(lasts)
      backend.signal('SIGCONT')
    },
    'stop, then kill': async (backend, lasts) => {
      backend.signal('SIGSTOP')
      await pause(lasts)
      backend.signal('SIGKILL')
    },
    drain: async (backend) => {
      backend.drain = { at: now(), deadline: this.#deadline }
      const { services } = await this.#broker.status()
      for (const service of services) {
        const found = service.backends.find(({ pid }) => pid === backend.pid)
        if (found === undefined && backend.killedAt === undefined)
          this.complaints.push(`backend ${backend.instance} is not registered for ${service.name}`)
        else if (found !== undefined) await this.#broker.drain(service.name, found.id, this.#deadline)
      }
      await this.#leaves(backend)
    },
    restart: async (backend) => {
      await this.#fleet.replace(backend.slot).ready
      backend.drain = { at: now(), deadline: this.#deadline }
      backend.signal('SIGTERM')
      await this.#leaves(backend)
    },
    'one connection': told('one connection'),
    'slow answers': told('slow answers'),
    'busy loop': told('busy loop'),
    'descriptor leak': told('descriptor leak'),
  }

  async #leaves(backend) {
    const timeout = new AbortController()
    const left = await Promise.race([
      backend.exited,
      pause(this.#deadline + LEAVE, undefined, { signal: timeout.signal }).catch(() => undefined),
    ])
    timeout.abort()
    if (left !== undefined) return
    this.complaints.push(`backend ${backend.instance} (pid ${backend.pid}) did not end after its drain`)
    backend.signal('SIGKILL')
  }

  #count(kind) {
    this.done[kind] = (this.done[kind] ?? 0) + 1
  }
}

function told(kind) {
  return async (backend, lasts) => {
    backend.tell({ kind, lasts })
    await pause(lasts)
  }
}
