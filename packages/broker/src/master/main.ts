import { closeSync, rmSync } from 'node:fs'
import { resolve } from 'node:path'
import { forgetKeeper, unblockSignals } from '@baton/native-sendmsg'
import { MASTER_SIGNALS, type MasterSignal, takeEarlySignals } from '../early-signals.ts'
import { DONE, FAILED } from '../exit-codes.ts'
import { closeStrayInspector, ignoreMeaninglessSignals } from '../signals.ts'
import { PassedSockets } from './systemd/socket-activation.ts'
import { Notifier } from './systemd/notify.ts'
import { InstalledProgram } from './reload/installed-program.ts'
import { Master } from './master.ts'
import { findLaunchers, isUnderNohup } from './run/launchers.ts'
import { StartLog } from './start-log.ts'
import { hasChangedSince, watchFolder } from './run/watch-folder.ts'
import { takeState } from './reload/state.ts'
import type { RunState } from './run/app-run.ts'

export { findLaunchers } from './run/launchers.ts'
export { GIVEN_LISTENER } from './run/port-assignments.ts'
export { makeRunFolder } from './run/run-folder.ts'

/** A second signal within this time, in ms, is the first one, passed on by a launcher. */
const ECHO_WINDOW_MS = 500

/** Where signals come from: the process. */
export interface SignalSource {
  on(signal: MasterSignal, listener: (signal: MasterSignal) => void): unknown
  off(signal: MasterSignal, listener: (signal: MasterSignal) => void): unknown
}

export interface MasterProcess {
  /** The configuration file. */
  readonly file: string
  /** Says, once, what is odd about the configuration; throws what is wrong with it. */
  readonly warn: () => void
  readonly signals: SignalSource
  /** Ends the process at once. */
  readonly exit: (code: number) => void
  /** Under `baton run`. */
  readonly run?: RunState
}

/**
 * Runs a master until the first SIGTERM, SIGINT or SIGQUIT, or `baton stop`, then drains it. Starts from nothing, or continues where
 * the program that this one has replaced left off. A signal that comes while it starts is kept until it can be handled.
 *
 * @returns the exit code
 * @throws what `Master.start` throws
 */
export async function runMaster({ file, warn, signals, exit, run }: MasterProcess): Promise<number> {
  // Before any child is started, which would load it as well.
  const keeper = forgetKeeper(process.env)
  if (keeper !== undefined) closeSync(keeper)
  let obey: (signal: MasterSignal) => void
  const asked = new Promise<MasterSignal>((done) => (obey = done))
  let master: Master | undefined
  let unwatch: (() => void) | undefined
  let count = 0
  const state = takeState(process.env)
  const ofRun = state === undefined ? run : (state.run ?? undefined)
  const log = new StartLog(ofRun === undefined ? 'json' : 'text', state?.log)
  let failed = false
  const onFailure = (error: unknown) => {
    if (failed) return
    failed = true
    log.logger.fatal({ err: error }, 'the master failed; its workers drain')
    master?.leaveFiles()
    if (ofRun !== undefined) rmSync(ofRun.folder, { recursive: true, force: true })
    exit(FAILED)
  }
  // Node would write it to standard error, and wait there for a reader that has stopped.
  process.on('uncaughtException', onFailure)
  // npm passes on what a terminal has sent to the whole group already.
  const isLaunched = findLaunchers().length > 0
  let first = 0
  const onEnd = (signal: MasterSignal) => {
    if (isLaunched && count === 1 && performance.now() - first < ECHO_WINDOW_MS) return
    first = performance.now()
    count += 1
    if (count === 1) return obey(signal)
    log.logger.warn({ signal }, 'second signal: ending at once')
    master?.kill()
    return exit(FAILED)
  }
  /** Those that came before there was a master to obey them. */
  const early = new Set<MasterSignal>()
  const onSignal = (signal: MasterSignal) => {
    if (signal === 'SIGTERM' || signal === 'SIGINT' || signal === 'SIGQUIT') return onEnd(signal)
    // Under `baton run` it is what it says: the terminal is gone. nohup(1) is there to outlive that.
    if (signal === 'SIGHUP' && ofRun !== undefined) return void (isUnderNohup() || onEnd(signal))
    if (master === undefined) return void early.add(signal)
    if (signal === 'SIGHUP') master.reload()
    else if (signal === 'SIGUSR2') master.logStatus()
    else log.reopen((stdout) => master?.reopenLog(stdout))
  }
  for (const signal of MASTER_SIGNALS) signals.on(signal, onSignal)
  for (const signal of takeEarlySignals()) onSignal(signal)
  ignoreMeaninglessSignals()
  unblockSignals()
  try {
    const notifier = Notifier.take(process.env, log.logger)
    const program = InstalledProgram.ofProcess(state?.program)
    const options = { log, program, run, notifier }
    if (state === undefined) {
      warn()
      const given = PassedSockets.take(process.env, log.logger)
      // Not by getcwd(2): the folder may have been entered through a link, which is followed again at each reload.
      const { folder } = program.names
      process.env['PWD'] = folder
      master = await Master.start(resolve(folder, file), { ...options, given })
      given.close()
      log.take()
    } else master = Master.resume(state, options)
    const running = master
    closeStrayInspector(log.logger)
    for (const signal of early) onSignal(signal)
    const stopping = asked.then((signal) => running.stop(signal))
    const { watch: folder, watchedUntil } = ofRun ?? {}
    if (typeof folder === 'string') {
      unwatch = watchFolder(folder, () => running.redeploy())
      if (watchedUntil !== undefined && hasChangedSince(folder, watchedUntil)) running.redeploy()
    }
    await Promise.race([running.finished, stopping])
    await Promise.race([stopping, running.stopped])
    if (running.failure !== undefined) throw running.failure
    return DONE
  } finally {
    unwatch?.()
    if (ofRun !== undefined) rmSync(ofRun.folder, { recursive: true, force: true })
    for (const signal of MASTER_SIGNALS) signals.off(signal, onSignal)
    process.off('uncaughtException', onFailure)
  }
}
