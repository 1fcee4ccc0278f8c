import { executeInPlace, type OwnedFd } from '@baton/native-sendmsg'
import { ConfigError, readConfigText } from '../config/index.ts'
import type { Change } from '../events/index.ts'
import type { Fleet } from '../fleet/index.ts'
import type { Notifier } from '../systemd/index.ts'
import type { Counters } from './counters.ts'
import type { Crossing } from './crossing.ts'
import type { FilesOnDisk } from './files-on-disk.ts'
import { type InForce, readSettings } from './in-force.ts'
import type { CommandLine, InstalledProgram } from './installed-program.ts'
import type { Occupation } from './occupation.ts'
import { checkProgram } from './program-check.ts'
import type { Roster } from './roster.ts'
import type { Session } from './session.ts'
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
type Carried = Pick<MasterState, 'lock' | 'executions' | 'startedAt' | 'run'>

/**
 * The first half of a reload, in the program that is to be replaced: looks at all that can be refused, and hands over. The other half is
 * `AfterExec` of the program that replaces it.
 */
export class BeforeExec {
  readonly #parts: ReloadParts
  readonly #program: InstalledProgram
  readonly #carried: () => Carried

  /**
   * @param program that replaces this one
   * @param carried asked right before exec
   */
  constructor(parts: ReloadParts, program: InstalledProgram, carried: () => Carried) {
    this.#parts = parts
    this.#program = program
    this.#carried = carried
  }

  /**
   * On success it does not return, and the program that replaces this one is who answers.
   *
   * @param refused says why nothing has changed
   */
  async reload(
    asker: Asker,
    session: Session | undefined,
    refused: (success: false, log: readonly string[]) => void,
  ): Promise<void> {
    const { log, notifier, occupation, inForce, roster, counters, files, tell } = this.#parts
    const { refusal } = occupation
    if (refusal !== undefined) {
      if (asker.kind === 'signal') this.#answerManager(refusal)
      return refused(false, [refusal])
    }
    occupation.begin('reload')
    notifier.reloading()
    const by = asker.kind === 'worker' ? asker.by : (session?.peer ?? 'SIGHUP')
    const givesWay = () => occupation.activity !== 'reload'
    let why: string
    try {
      log.logger.info({ asker: asker.kind, by }, 'reloading')
      tell({ kind: 'reload', by, text: `${by} reloads the broker` })
      // A broker that no backend and no operator can reach is not reloaded.
      files.ensure()
      this.#program.enterFolder()
      const candidate = this.#readCandidate()
      const program = this.#program.forReload()
      const problem = await checkProgram(program, inForce.settings.file)
      if (givesWay()) return refused(false, ['a stop is going on'])
      // Everything that is half said in a channel is heard first; nothing more is heard until exec, in this turn.
      await roster.becomeQuiet()
      if (givesWay()) return refused(false, ['a stop is going on'])
      why = problem ?? this.#execute(program, asker, session, candidate)
    } catch (error) {
      why = error instanceof Error ? error.message : String(error)
    }
    occupation.end('reload')
    counters.reloaded(false, Date.now() / 1000)
    log.logger.error({ reason: why }, 'reload failed; nothing has changed')
    tell({ kind: 'reload', by, text: `the reload failed, and nothing has changed: ${why}` })
    notifier.ready(`serving; reload failed: ${why}`)
    refused(false, why.split('\n'))
  }

  /** systemd waits for an answer to its SIGHUP. Where a reload goes on, the end of that one is it; a stop needs none. */
  #answerManager(reason: string): void {
    const { notifier, occupation } = this.#parts
    if (occupation.activity === 'stop') return
    notifier.reloading()
    if (occupation.activity !== 'reload') notifier.ready(`serving; reload refused: ${reason}`)
  }

  /**
   * The text of the configuration that is to be.
   *
   * @throws {ConfigError}
   */
  #readCandidate(): string {
    const { settings, config } = this.#parts.inForce
    const { file } = settings
    const candidate = readSettings(file, readConfigText(file))
    if (candidate.config.runtimeDir !== config.runtimeDir) {
      throw new ConfigError(file, [
        { path: 'runtimeDir', message: 'cannot be changed by a reload; stop and start' },
      ])
    }
    return candidate.text
  }

  /** Replaces this program. Returns only when that failed, with the reason. */
  #execute(
    { node, args }: CommandLine,
    asker: Asker,
    session: Session | undefined,
    candidate: string,
  ): string {
    const { notifier, inForce, roster, counters, crossing } = this.#parts
    const { file, text } = inForce.settings
    const crosses = session?.open === true && this.#enter(session)
    let written: OwnedFd | undefined
    try {
      const fleet = this.#parts.fleet.serialize()
      const state: MasterState = {
        ...this.#carried(),
        version: STATE_VERSION,
        program: this.#program.names,
        file,
        text,
        candidate,
        sockets: inForce.sockets.state,
        pair: crossing.numbers,
        workers: [...roster.workers].map((worker) => worker.state),
        started: roster.started,
        counters: counters.state,
        fleet: fleet.state,
        asker: crosses || asker.kind !== 'session' ? asker : { kind: 'signal' },
      }
      written = writeState(state)
      executeInPlace({
        path: node,
        args: [...args, 'start', '--config', file],
        env: { ...process.env, ...notifier.environment, [STATE_VARIABLE]: String(written.fd) },
        keep: [written.fd, ...descriptorsOf(state), ...fleet.keep],
      })
      return 'exec has returned'
    } catch (error) {
      // What waits in the pair is a duplicate of what the session still has.
      if (crosses) crossing.leave().close()
      return error instanceof Error ? error.message : String(error)
    } finally {
      written?.close()
    }
  }

  #enter(session: Session): boolean {
    try {
      this.#parts.crossing.enter(session)
      return true
    } catch (error) {
      // The reload happens all the same; this session hears nothing of it.
      this.#parts.log.logger.error({ err: error }, 'the session that asked cannot cross the reload')
      session.close()
      return false
    }
  }
}
