import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

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
const config = (folder, hold) => ({
  runtimeDir: join(folder, 'run'),
  drainDeadline: '5s',
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
  /** Ports of the listeners, by name. */
  ports = {}
  control

  /** The worker's pid: the process that serves clients and backends. */
  pid

  /** @param patience of the clients, in seconds */
  async start(folder, environment, patience) {
    const configFile = join(folder, 'baton.json')
    writeFileSync(configFile, JSON.stringify(config(folder, `${2 * patience}s`)))
    this.#child = spawn(process.execPath, [command, 'start', '--config', configFile], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: environment,
    })
    this.#exited = once(this.#child, 'exit')
    const log = createWriteStream(join(folder, 'broker.log'))
    const ready = new Promise((resolve, reject) => {
      createInterface({ input: this.#child.stdout }).on('line', (line) => {
        log.write(`${line}\n`)
        const message = JSON.parse(line)
        if (message.msg === 'accepting connections') resolve(message)
      })
      void this.#exited.then(([code]) => reject(new Error(`the broker ended with ${code}`)))
    })
    const { listeners, admin, control, pid } = await ready
    this.pid = pid
    this.control = control
    this.#admin = `http://${admin}`
    for (const [name, address] of Object.entries(listeners))
      this.ports[name] = Number(address.split(':').at(-1))
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
    if (!this.running) return
    this.#child.kill('SIGKILL')
    if (this.pid !== undefined) process.kill(this.pid, 'SIGKILL')
  }

  /** Undefined if not found. Without keep-alive, so that no connection to the admin server counts among the broker's descriptors. */
  async #ask(method, path, body) {
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
    return JSON.parse(text)
  }
}
