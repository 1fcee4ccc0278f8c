// node bench/outlive/kept.mjs [--deploys 200] [--clients 64] [--quick]
//
// Rolling deploys under load: --clients of Node's own HTTP client, each with an Agent that keeps one connection and sends one request after
// another. Exits with 1 if a client has opened more than one TCP connection, or a request failed.
import http from 'node:http'
import { parseArgs } from 'node:util'
import { endOnSignals } from '../scratch.mjs'
import { startDeployed } from './deployed.mjs'
import { Histogram } from './histogram.mjs'
import { below, micros } from './totals.mjs'

const { values } = parseArgs({
  options: {
    deploys: { type: 'string' },
    clients: { type: 'string', default: '64' },
    /** Milliseconds between an answer and the next request, at most. */
    pause: { type: 'string', default: '20' },
    quick: { type: 'boolean', default: false },
  },
})
const deploys = Number(values.deploys ?? (values.quick ? 10 : 200))
endOnSignals()

class CountingAgent extends http.Agent {
  opened = 0

  createConnection(...args) {
    this.opened += 1
    return super.createConnection(...args)
  }
}

/** Keeps one connection, as Node's users do, and counts how often it has had to open one. */
class KeptClient {
  requests = 0
  failures = []
  #stopped = false
  #agent = new CountingAgent({ keepAlive: true, maxSockets: 1 })

  constructor(port, latency) {
    this.done = this.#run(port, latency)
  }

  get opened() {
    return this.#agent.opened
  }

  stop() {
    this.#stopped = true
    return this.done
  }

  async #run(port, latency) {
    while (!this.#stopped) {
      const begun = micros()
      try {
        const number = this.requests + 1
        const body = await this.#ask(port, number)
        if (!body.startsWith(`${number} `)) throw new Error(`the answer to ${number} is ${body}`)
        this.requests = number
      } catch (error) {
        this.failures.push(error.message)
      }
      latency.add(micros() - begun)
      await new Promise((resolve) => setTimeout(resolve, below(Number(values.pause))))
    }
    this.#agent.destroy()
  }

  #ask(port, number) {
    return new Promise((resolve, reject) => {
      const request = http.get(
        { agent: this.#agent, host: '127.0.0.1', port, path: `/${number}` },
        (response) => {
          if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`))
          let text = ''
          response
            .setEncoding('latin1')
            .on('data', (chunk) => (text += chunk))
            .on('end', () => resolve(text))
            .on('error', reject)
        },
      )
      request.on('error', reject)
    })
  }
}

const app = await startDeployed({ services: ['web'], instances: 2 })
const latency = new Histogram()
const clients = Array.from({ length: Number(values.clients) }, () => new KeptClient(app.port, latency))
const begun = performance.now()
for (let count = 1; count <= deploys; count++) {
  await app.deploy('web')
  if (count % 50 === 0)
    console.error(`${count} deploys, ${((performance.now() - begun) / 1000).toFixed(0)} s`)
}
const seconds = (performance.now() - begun) / 1000
await Promise.all(clients.map((client) => client.stop()))
const moves = Number(
  /^baton_connections_handed_back_total\{service="web",kind="idle",result="taken"\} (\d+)$/m.exec(
    await app.metrics(),
  )?.[1] ?? 0,
)
await app.stop()

const most = Math.max(...clients.map(({ opened }) => opened))
const requests = clients.reduce((sum, each) => sum + each.requests, 0)
const failures = clients.flatMap((each) => each.failures)
const { requests: handled } = app.handled('web')
const lines = {
  deploys: `${deploys} in ${seconds.toFixed(0)} s, 2 instances`,
  clients: clients.length,
  'requests answered': requests,
  'requests handled by the app': handled,
  'failed requests': failures.length,
  'connections handed back': moves,
  'TCP connections that a client has opened, at most': most,
  'answer, ms: p50 / p99 / max': [0.5, 0.99, 1]
    .map((share) => (latency.quantile(share) / 1000).toFixed(1))
    .join(' / '),
}
for (const [name, value] of Object.entries(lines)) console.log(`${name.padEnd(52)}${value}`)
for (const failure of failures.slice(0, 10)) console.log(failure)
process.exit(most === 1 && failures.length === 0 && handled === requests ? 0 : 1)
