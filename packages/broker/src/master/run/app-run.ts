import type { OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { openListener } from '../../listening/sockets.ts'
import { type Outcome, refusal, type PortRequest } from '../../ipc/operator-protocol.ts'
import type { Deployer } from '../deploy/deployer.ts'
import { type InForce, readSettings } from '../active-config.ts'
import { decide, describePort, writeDown } from './port-assignments.ts'
import type { Roster } from '../workers/worker-pool.ts'

/** What of a master an app deals with. */
export interface AppRunParts {
  readonly inForce: InForce
  readonly roster: Pick<Roster, 'listen'>
  readonly deployer: Pick<Deployer, 'deploy'>
  readonly logger: Logger
}

/**
 * What `baton run` adds to a master: the ports that the app listens on become listeners of the configuration, and changed files a
 * deploy. Under `baton start` there is nothing to it.
 *
 * Owner of what the app has claimed.
 */
export class AppRun {
  readonly #parts: AppRunParts
  #state: RunState | undefined
  #changed = false
  #redeploying = false
  #over = false

  /** @param state undefined under `baton start` */
  constructor(state: RunState | undefined, parts: AppRunParts) {
    this.#state = state
    this.#parts = parts
  }

  get state(): RunState | undefined {
    return this.#state
  }

  /** A port that the app listens on. Each of its processes asks for the same ones. */
  async listen(request: PortRequest): Promise<Outcome> {
    const { inForce, roster, logger } = this.#parts
    const { file, text } = inForce.settings
    if (this.#state === undefined) return refusal(`listeners are those of ${file}`)
    const decision = decide(text, this.#state.claims, request)
    const claims = { ...this.#state.claims, [String(request.port)]: decision.listener }
    if (decision.kind === 'new') {
      let fd: OwnedFd
      try {
        fd = openListener({ name: decision.listener, listen: decision.listen })
      } catch (error) {
        return refusal(error instanceof Error ? error.message : String(error))
      }
      const sockets = inForce.sockets.add(decision.listener, fd, decision.listen)
      inForce.replace(readSettings(file, decision.text), sockets)
      writeDown(file, decision.text)
      this.#state = { ...this.#state, claims }
      await roster.listen(decision.listener, decision.parts, fd)
    }
    this.#state = { ...this.#state, claims }
    const held = inForce.sockets.listeners.get(decision.listener)
    if (held === undefined || held.fd.closed) return refusal('the broker stops')
    const opened = describePort(inForce.settings.text, file, decision.listener, held.fd)
    if (decision.kind === 'new') logger.info(opened, 'listening for the app')
    return { success: true, log: [JSON.stringify(opened)] }
  }

  /** Files have changed: a deploy, and another one when they change during it. */
  redeploy(): void {
    this.#changed = true
    if (!this.#redeploying) void this.#redeploy()
  }

  /** The master stops: no deploy begins any more. */
  end(): void {
    this.#over = true
  }

  async #redeploy(): Promise<void> {
    this.#redeploying = true
    const { inForce, deployer, logger } = this.#parts
    while (this.#changed && !this.#over) {
      this.#changed = false
      for (const { name, command } of inForce.config.services.values()) {
        if (command === null) continue
        const { success, log } = await deployer.deploy({
          service: name,
          atOnce: 1,
          abort: false,
          by: 'a changed file',
          progress: (line) => logger.info(line),
        })
        if (!success) for (const line of log) logger.error(line)
      }
    }
    this.#redeploying = false
  }
}
