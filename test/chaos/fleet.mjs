import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { now } from './clock.mjs'

const program = join(import.meta.dirname, 'programs/backend.mjs')

/** RLIMIT_NOFILE of a backend: more than the run has clients, but quickly used up by a leak. */
const DESCRIPTORS = 2048

/** Unexpected deaths after which the run ends: something is broken, and more restarts would not help. */
const MAX_SURPRISES = 8

/** One backend process from start to exit, with its faults. Times are `now()`. */
export class Backend {
  /** Counted from 1; unique for each process. */
  instance
  slot
  pid
  journalPath
  /** Set before SIGKILL is sent. */
  killedAt
  /** Set before a drain is requested: its connections may be cut after the deadline. */
  drain
  alive = true
  ready
  exited
  #child

  constructor(instance, slot, folder, environment) {
    this.instance = instance
    this.slot = slot
    this.journalPath = join(folder, `backend-${instance}.journal`)
    this.errorPath = join(folder, `backend-${instance}.log`)
    const log = openSync(this.errorPath, 'a')
    const script = `ulimit -n ${DESCRIPTORS} && exec "$0" "$1"`
    this.#child = spawn('/bin/sh', ['-c', script, process.execPath, program], {
      stdio: ['ignore', log, log, 'ipc'],
      env: { ...environment, CHAOS_INSTANCE: String(instance), CHAOS_JOURNAL: this.journalPath },
    })
    closeSync(log)
    this.pid = this.#child.pid
    this.exited = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        this.alive = false
        resolve({ code, signal })
      })
    })
    this.ready = new Promise((resolve) => {
      this.#child.once('message', () => resolve(true))
      void this.exited.then(() => resolve(false))
    })
  }

  tell(message) {
    // The process may die while the message is sent; its exit is handled elsewhere.
    if (this.#child.connected) this.#child.send(message, () => {})
  }

  signal(signal) {
    if (!this.alive) return
    if (signal === 'SIGKILL') this.killedAt ??= now()
    this.#child.kill(signal)
  }

  /** The end of its stdout and stderr. */
  lastWords() {
    return readFileSync(this.errorPath, 'utf8').slice(-2000)
  }
}

/** The supervisor: one process per slot, replaced when it exits. */
export class Fleet {
  /** Every process so far. */
  all = []
  /** Exits that no fault explains. */
  surprises = []
  #slots
  #folder
  #environment
  #ending = false

  constructor(slots, folder, environment) {
    this.#slots = Array.from({ length: slots })
    this.#folder = folder
    this.#environment = environment
  }

  get current() {
    return this.#slots
  }

  async start() {
    await Promise.all(Array.from(this.#slots.keys(), (slot) => this.replace(slot).ready))
  }

  /** Starts a process for the slot, next to the current one. */
  replace(slot) {
    const backend = new Backend(this.all.length + 1, slot, this.#folder, this.#environment)
    this.all.push(backend)
    this.#slots[slot] = backend
    void backend.exited.then((end) => this.#ended(backend, end))
    return backend
  }

  /** Resolves once each slot has a registered process. */
  async whole() {
    while (!this.#slots.every(({ alive }) => alive)) await Promise.all(this.#slots.map(({ ready }) => ready))
    await Promise.all(this.#slots.map(({ ready }) => ready))
  }

  /** Kills all of them, by pid; synchronous. */
  kill() {
    this.#ending = true
    for (const backend of this.all) backend.signal('SIGKILL')
  }

  #ended(backend, { code, signal }) {
    if (this.#ending) return
    const killed = backend.killedAt !== undefined && signal === 'SIGKILL'
    const asked = killed || (backend.drain !== undefined && code === 0)
    if (!asked) {
      const { instance, pid } = backend
      this.surprises.push(
        `backend ${instance} (pid ${pid}) ended with ${code ?? signal}:\n${backend.lastWords()}`,
      )
      if (this.surprises.length > MAX_SURPRISES) throw new Error(this.surprises.join('\n'))
    }
    if (this.#slots[backend.slot] === backend) this.replace(backend.slot)
  }
}
