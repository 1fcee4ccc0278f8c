import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { createWriteStream, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'
import { now } from './clock.mjs'

const command = join(import.meta.dirname, '../../packages/broker/bin/baton.js')

const service = (handoff, holdTimeout) => ({
  handoff,
  holdTimeout,
  failureLimit: { failures: 8, window: '30s', pause: '2s' },
})

/**
 * `carried` never passes a descriptor, so its connections are relays.
 *
 * @param hold longer than any fault that can hit all backends at once: a rejected client is a finding
 */
const config = (folder, hold, areKilled) => ({
  runtimeDir: join(folder, 'run'),
  // A relay that a reload ends would look like one that a kill has ended.
  drainDeadline: areKilled ? '10m' : '5s',
  admin: { listen: '127.0.0.1:0' },
  listeners: [
    { name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' },
    { name: 'carried', listen: '127.0.0.1:0', protocol: 'http', service: 'carried' },
    { name: 'lines', listen: '127.0.0.1:0', protocol: 'tcp', service: 'lines' },
  ],
  services: { web: service('auto', hold), carried: service('off', hold), lines: service('auto', hold) },
})

/** The broker of a run, started like a user's. Its log is `broker.log` in the run's folder. */
export class Broker {
  #child
  #exited
  #admin
  #workers = []
  /** Ports of the listeners, by name. */
  ports = {}
  control

  /** The worker's pid: the process that serves clients and backends. */
  pid

  /** Times at which the oldest of too many finishing workers was ended, with what it relayed. */
  workersEnded = []
  #log
  #configFile
  #environment
  #operators = new Set()
  /** Milliseconds in which a request may be repeated while the broker's processes are killed; 0 if they are not. */
  #patience = 0

  /**
   * @param patience of the clients, in seconds
   * @param areKilled whether the broker's own processes are killed
   */
  async start(folder, environment, patience, areKilled = false) {
    this.#configFile = join(folder, 'baton.json')
    this.#environment = environment
    this.#log = createWriteStream(join(folder, 'broker.log'))
    if (areKilled) this.#patience = patience * 1000
    const written = config(folder, `${2 * patience}s`, areKilled)
    // The next start needs the same addresses, even if nothing of this one is left.
    if (areKilled)
      for (const each of [written.admin, ...written.listeners]) each.listen = `127.0.0.1:${await freePort()}`
    writeFileSync(this.#configFile, JSON.stringify(written))
    const { listeners, admin, control } = await this.#run()
    this.control = control
    this.#admin = `http://${admin}`
    for (const [name, address] of Object.entries(listeners))
      this.ports[name] = Number(address.split(':').at(-1))
  }

  /** `baton start`, after the master was killed. Resolves when a worker of it accepts. */
  async startAgain() {
    await this.#run()
  }

  async #run() {
    const child = spawn(process.execPath, [command, 'start', '--config', this.#configFile], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: this.#environment,
    })
    this.#child = child
    this.#exited = once(child, 'exit')
    const ready = new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        this.#log.write(`${line}\n`)
        const message = parsed(line)
        if (message?.msg === 'accepting connections') resolve(message)
        if (message?.msg === 'too many workers are finishing; the oldest is ended')
          this.workersEnded.push(now())
      })
      void this.#exited.then(([code]) => reject(new Error(`the broker ended with ${code}`)))
    })
    const message = await ready
    this.pid = message.pid
    return message
  }

  killMaster() {
    this.#child.kill('SIGKILL')
  }

  /** `baton reload`, as an operator would type it. */
  reload() {
    const child = spawn(process.execPath, [command, 'reload', '--config', this.#configFile], {
      stdio: 'ignore',
      env: this.#environment,
    })
    const operator = {
      running: true,
      kill: () => child.kill('SIGKILL'),
      exited: once(child, 'exit').then(([code, signal]) => {
        operator.running = false
        this.#operators.delete(child)
        return { code, signal }
      }),
    }
    this.#operators.add(child)
    return operator
  }

  /** The answer to an operator's `status`, of the master or of a worker that goes on without one. */
  async masterStatus() {
    return this.#repeated(async () => {
      const socket = net.connect(join(this.control, '../master.sock'))
      socket.write('status\n')
      let text = ''
      for await (const chunk of socket) text += chunk
      const status = JSON.parse(text)
      this.#workers = status.workers
      return status
    })
  }

  get running() {
    return this.#child?.exitCode === null && this.#child.signalCode === null
  }

  /** Its exit code or signal; undefined while it runs, and if it was never started. */
  get ended() {
    return this.#child?.exitCode ?? this.#child?.signalCode ?? undefined
  }

  status() {
    return this.#ask('GET', '/api/v1/status')
  }

  /** @returns whether the backend exists */
  async drain(service, backend, deadline) {
    const path = `/api/v1/services/${service}/backends/${backend}/drain`
    return (await this.#ask('POST', path, { deadline })) !== undefined
  }

  /** SIGTERM: resolves with its exit code, or with `SIGKILL` if it was still running after `longest` milliseconds. */
  async stop(longest) {
    const timer = setTimeout(() => this.kill(), longest)
    this.#child.kill('SIGTERM')
    const [code, signal] = await this.#exited
    clearTimeout(timer)
    return code ?? signal
  }

  /** Immediate and synchronous, for the end of a run that failed. */
  kill() {
    for (const operator of this.#operators) operator.kill('SIGKILL')
    if (!this.running) return
    this.#child.kill('SIGKILL')
    const workers = new Set([this.pid, ...this.#workers.map(({ pid }) => pid)])
    for (const pid of workers) {
      try {
        if (pid !== undefined) process.kill(pid, 'SIGKILL')
      } catch {
        // It has ended.
      }
    }
  }

  /** Again while the broker's processes are being killed: an answer may end with the process that gives it. */
  async #repeated(ask) {
    for (const end = performance.now() + this.#patience; ;) {
      try {
        return await ask()
      } catch (error) {
        if (performance.now() >= end) throw error
        await pause(50)
      }
    }
  }

  /** Undefined if not found. Without keep-alive, so that no connection to the admin server counts among the broker's descriptors. */
  #ask(method, path, body) {
    return this.#repeated(() => this.#request(method, path, body))
  }

  async #request(method, path, body) {
    const text = await this.#text(method, path, body)
    return text === undefined ? undefined : JSON.parse(text)
  }

  /** Every sample of the counters of all workers so far, by its series. */
  async metrics() {
    const text = await this.#repeated(() => this.#text('GET', '/metrics'))
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    return new Map(
      lines.map((line) => [
        line.slice(0, line.lastIndexOf(' ')),
        Number(line.slice(line.lastIndexOf(' ') + 1)),
      ]),
    )
  }

  async #text(method, path, body) {
    const request = http.request(`${this.#admin}${path}`, {
      method,
      agent: false,
      headers: body === undefined ? {} : { 'content-type': 'application/json' },
    })
    request.end(body === undefined ? undefined : JSON.stringify(body))
    const [response] = await once(request, 'response')
    let text = ''
    for await (const chunk of response) text += chunk
    if (response.statusCode === 404) return undefined
    if (response.statusCode >= 300) throw new Error(`${method} ${path}: ${response.statusCode} ${text}`)
    return text
  }
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/** Undefined for a line that a process could not finish. */
function parsed(line) {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
