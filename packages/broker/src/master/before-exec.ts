import { setImmediate } from 'node:timers/promises'
import { blockSignals, executeInPlace, type OwnedFd } from '@baton/native-sendmsg'
import { ConfigError, readConfigTextAtOnce } from '../config/index.ts'
import type { Change } from '../events/index.ts'
import type { Fleet } from '../fleet/index.ts'
import type { Notifier } from '../systemd/index.ts'
import type { Counters } from './counters.ts'
import type { Crossing } from './crossing.ts'
import type { FilesOnDisk } from './files-on-disk.ts'
import { type InForce, readSettings } from './in-force.ts'
import type { CommandLine, InstalledProgram } from './installed-program.ts'
import type { Occupation } from './occupation.ts'
import { type ReloadRequest, requesterOf } from './reloads.ts'
import { checkProgram } from './program-check.ts'
import type { Roster } from './roster.ts'
import type { StartLog } from './start-log.ts'
import { type Asker, descriptorsOf, type MasterState, STATE_VARIABLE, writeState } from './state.ts'
import { STATE_VERSION } from './state-version.ts'

/** What of a master both halves of a reload deal with. */
export interface ReloadParts {
  readonly log: StartLog
  readonly notifier: Notifier
  readonly occupation: Occupation
  readonly inForce: InForce
  readonly roster: Roster
  readonly fleet: Fleet
  readonly counters: Counters
  readonly crossing: Crossing
  readonly files: Pick<FilesOnDisk, 'ensure'>
  /** Those who listen to the events hear it. */
  readonly tell: (change: Change) => void
}

/** What crosses exec beside them. */
type Carried = Pick<MasterState, 'lock' | 'lifeline' | 'executions' | 'startedAt' | 'run'> & {
  /** Requests for the reload behind this one. */
  readonly waiting: readonly ReloadRequest[]
}

/**
 * The first half of a reload, in the program that is to be replaced: looks at all that can be refused, and hands over. The other half is
 * `AfterExec` of the program that replaces it.
 */
export class BeforeExec {
  readonly #parts: ReloadParts
  readonly #program: InstalledProgram
  readonly #carried: () => Carried
  readonly #stopped = new AbortController()

  /**
   * @param program that replaces this one
   * @param carried called right before exec
   */
  constructor(parts: ReloadParts, program: InstalledProgram, carried: () => Carried) {
    this.#parts = parts
    this.#program = program
    this.#carried = carried
  }

  /** The master stops: a reload that goes on gives way, whatever it waits for. */
  stop(): void {
    this.#stopped.abort()
  }

  /**
   * On success it does not return, and the program that replaces this one answers all of `requests`.
   *
   * @param refused says why nothing has changed
   */
  async reload(
    requests: readonly [ReloadRequest, ...ReloadRequest[]],
    refused: (log: readonly string[]) => void,
  ): Promise<void> {
    const { log, notifier, occupation, inForce, roster, counters, files, tell } = this.#parts
    occupation.begin('reload')
    notifier.reloading()
    const [first] = requests
    const by = requesterOf(first)
    const joined = requests.length > 1 && { requests: requests.length }
    const givesWay = () => occupation.activity !== 'reload'
    let why: string
    try {
      log.logger.info({ asker: first.asker.kind, by, ...joined }, 'reloading')
      tell({ kind: 'reload', by, text: `${by} reloads the broker` })
      // A broker that no backend and no operator can reach is not reloaded.
      files.ensure()
      this.#program.enterFolder()
      const candidate = this.#readCandidate()
      const program = this.#program.forReload()
      const problem = await checkProgram(program, inForce.settings.file, this.#stopped.signal)
      const stops = () => {
        if (!givesWay()) return false
        log.proceed()
        refused(['a stop is going on'])
        return true
      }
      if (stops()) return
      await log.pause()
      // Everything that is half said in a channel is read first.
      await roster.becomeQuiet()
      if (stops()) return
      why = problem ?? (await this.#executeQuietly(program, requests, candidate))
      if (stops()) return
    } catch (error) {
      why = error instanceof Error ? error.message : String(error)
    }
    log.proceed()
    occupation.end('reload')
    counters.reloaded('failure', Date.now() / 1000)
    log.logger.error({ reason: why }, 'reload failed; nothing has changed')
    tell({ kind: 'reload', by, text: `the reload failed, and nothing has changed: ${why}` })
    notifier.ready(`serving; reload failed: ${why}`)
    refused(why.split('\n'))
  }

  /**
   * The text of the configuration that is to be.
   *
   * @throws {ConfigError}
   */
  #readCandidate(): string {
    const { settings, config } = this.#parts.inForce
    const { file } = settings
    const candidate = readSettings(file, readConfigTextAtOnce(file))
    if (candidate.config.runtimeDir !== config.runtimeDir) {
      throw new ConfigError(file, [
        { path: 'runtimeDir', message: 'cannot be changed by a reload; stop and start' },
      ])
    }
    return candidate.text
  }

  /**
   * Signals wait for the next program from here on; those that have come already are handled before, in two more turns of the event
   * loop. After the last of them nothing more is read until exec.
   */
  async #executeQuietly(
    program: CommandLine,
    requests: readonly ReloadRequest[],
    candidate: string,
  ): Promise<string> {
    const { roster, occupation } = this.#parts
    const restore = blockSignals()
    try {
      do {
        await setImmediate()
        await setImmediate()
        await roster.becomeQuiet()
      } while (!roster.quiet)
      return occupation.activity === 'reload'
        ? this.#execute(program, requests, candidate)
        : 'a stop is going on'
    } finally {
      restore()
    }
  }

  /** Replaces this program. Returns only when that failed, with the reason. */
  #execute({ node, args }: CommandLine, requests: readonly ReloadRequest[], candidate: string): string {
    const { notifier, inForce, roster, counters, crossing } = this.#parts
    const { file, text } = inForce.settings
    const { waiting, ...carried } = this.#carried()
    const askers = requests.map((request) => this.#enter(request))
    const later = waiting.map((request) => this.#enter(request))
    let written: OwnedFd | undefined
    try {
      const fleet = this.#parts.fleet.serialize()
      const state: MasterState = {
        ...carried,
        version: STATE_VERSION,
        program: this.#program.names,
        file,
        text,
        candidate,
        sockets: inForce.sockets.state,
        pair: crossing.numbers,
        workers: [...roster.workers].map((worker) => worker.state),
        known: roster.known,
        started: roster.started,
        counters: counters.state,
        fleet: fleet.state,
        log: this.#parts.log.state,
        askers,
        waiting: later,
      }
      written = writeState(state)
      executeInPlace({
        path: node,
        args: [...args, 'start', '--config', file],
        env: { ...process.env, ...notifier.environment, [STATE_VARIABLE]: String(written.fd) },
        keep: [written.fd, ...descriptorsOf(state), ...fleet.keep],
        keepSignals: true,
      })
      return 'exec has returned'
    } catch (error) {
      // What waits in the pair are duplicates of what the sessions still have.
      for (const { kind } of [...askers, ...later]) if (kind === 'session') crossing.leave().close()
      return error instanceof Error ? error.message : String(error)
    } finally {
      written?.close()
    }
  }

  /** @returns the asker as the next program finds it: a session that is over, or cannot cross, is like a signal */
  #enter({ asker, session }: ReloadRequest): Asker {
    if (asker.kind !== 'session') return asker
    if (session?.open !== true) return { kind: 'signal' }
    try {
      this.#parts.crossing.enter(session)
      return asker
    } catch (error) {
      // The reload goes on without an answer to this session.
      this.#parts.log.logger.error({ err: error }, 'the session that asked cannot cross the reload')
      session.close()
      return { kind: 'signal' }
    }
  }
}
