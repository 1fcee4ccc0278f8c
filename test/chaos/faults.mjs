import { setTimeout as pause } from 'node:timers/promises'
import { now } from './clock.mjs'

/**
 * Applies the schedule's faults to the fleet, and counts them by kind. `missed`: faults whose victim was still starting or already leaving;
 * `complaints`: backends that did not exit after a drain.
 */
export class Faults {
  done = {}
  missed = 0
  complaints = []
  #fleet
  #broker
  #deadline
  #patience

  /**
   * @param deadline of drains, milliseconds
   * @param patience milliseconds that a victim may take to start, and to exit after a drain's deadline
   */
  constructor(fleet, broker, deadline, patience) {
    this.#fleet = fleet
    this.#broker = broker
    this.#deadline = deadline
    this.#patience = patience
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
    const ready = (await Promise.race([backend.ready, pause(this.#patience)])) === true && backend.alive
    // It can leave only once.
    const leaves = backend.drain !== undefined && (kind === 'drain' || kind === 'restart')
    // Another restart of this slot began meanwhile. A second successor of one backend would leave the first one behind.
    const isReplaced = kind === 'restart' && this.#fleet.current[backend.slot] !== backend
    if (!ready || leaves || isReplaced) {
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
      const asked = new Set()
      const end = performance.now() + this.#patience
      // A backend whose registration was lost, through a fault or on a busy machine, registers again.
      for (;;) {
        const { services } = await this.#broker.status()
        for (const { name, backends } of services) {
          const found = backends.find(({ pid }) => pid === backend.pid)
          if (found === undefined || asked.has(name)) continue
          if (await this.#broker.drain(name, found.id, this.#deadline)) asked.add(name)
        }
        if (asked.size === services.length || !backend.alive) break
        if (performance.now() > end)
          throw new Error(`backend ${backend.instance} is registered for ${[...asked].join(', ')} only`)
        await pause(50)
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
      pause(this.#deadline + this.#patience, undefined, { signal: timeout.signal }).catch(() => undefined),
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
