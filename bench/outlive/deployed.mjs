// A broker with the chat and the API of app.mjs as managed services, and rolling deploys of them.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { startBroker } from '../broker.mjs'
import { askMaster } from '../master.mjs'
import { program, temporaryFolder } from '../scratch.mjs'

/** For `wrapper`: Ctrl-C in a terminal does not reach it. It keeps its pid. */
export const OWN_SESSION = ['setsid']

/**
 * @param {{ services: string[], instances?: number, pushes?: number, service?: object }} options `pushes`: messages per second that each
 *   process sends unasked; `service`: more keys of the configuration of each service
 */
export async function startDeployed({ services, instances = 1, pushes = 0, service = {} }) {
  const folder = temporaryFolder()
  const handled = (name) => join(folder, `handled-${name}`)
  const configured = services.map((name) => {
    const env = { HANDLED: handled(name), PUSHES_PER_SECOND: String(pushes), QUIET: '1' }
    const command = [process.execPath, program('bench/outlive/app.mjs')]
    return [
      name,
      { command, cwd: program('.'), env, instances, minHealthy: '0s', holdTimeout: '10m', ...service },
    ]
  })
  const broker = await startBroker({
    wrapper: OWN_SESSION,
    config: {
      // A connection that cannot move is cut after this, and its client is counted as one that had to connect again.
      drainDeadline: '1m',
      listeners: services.map((name) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })),
      services: Object.fromEntries(configured),
    },
  })
  return {
    ...broker,
    /** Resolves to the milliseconds it took, once the old processes have exited. @param {string} name */
    async deploy(name) {
      const begun = performance.now()
      const text = await askMaster(broker, `deploy ${name} at-once=1`)
      if (!text.includes('Success=1\n')) throw new Error(`the deploy of ${name} failed:\n${text}`)
      return performance.now() - begun
    },
    /** Requests and messages that exited processes have handled; after `stop`, those of all. @param {string} name */
    handled(name) {
      const total = { requests: 0, messages: 0 }
      if (!existsSync(handled(name))) return total
      for (const line of readFileSync(handled(name), 'utf8').trimEnd().split('\n')) {
        const [requests, messages] = line.split(' ').map(Number)
        total.requests += requests
        total.messages += messages
      }
      return total
    },
  }
}

/** The invariant of the broker's counters at rest: 0, or connections that are accounted for never or twice. */
export function unaccounted({ listeners, services }) {
  let count = listeners.reduce((sum, { accepted }) => sum + accepted, 0)
  for (const { held, inFlight, parked, handedBack, outcomes } of services)
    count += handedBack - held - inFlight - parked - Object.values(outcomes).reduce((a, b) => a + b, 0)
  return count
}
