import { closeSync, rmSync } from 'node:fs'
import { relative, resolve } from 'node:path'
import { forgetKeeper, unblockSignals } from '@baton/native-sendmsg'
import { MASTER_SIGNALS, type MasterSignal, takeEarlySignals } from '../early-signals.ts'
import { DONE, FAILED } from '../exit-codes.ts'
import { closeStrayInspector, ignoreMeaninglessSignals } from '../signals.ts'
import { PassedSockets } from './systemd/socket-activation.ts'
import { Notifier } from './systemd/notify.ts'
import { InstalledProgram } from './reload/installed-program.ts'
import { Master } from './master.ts'
import { findLaunchers, findPackageRunners, isUnderNohup } from './run/launchers.ts'
import { StartLog } from './start-log.ts'
import { hasChangedSince, watchFolder } from './run/watch-folder.ts'
import { takeState } from './reload/state.ts'
import type { RunState } from './run/app-run.ts'

export { findLaunchers } from './run/launchers.ts'
export { GIVEN_LISTENER } from './run/port-assignments.ts'
export { makeRunFolder } from './run/run-folder.ts'

/** A second signal within this time, in ms, is the first one again, forwarded by a launcher. */
const ECHO_WINDOW_MS = 500

/** Delivers signals: `process`. */
export interface SignalSource {
  on(signal: MasterSignal, listener: (signal: MasterSignal) => void): unknown
  off(signal: MasterSignal, listener: (signal: MasterSignal) => void): unknown
}

export interface MasterProcess {
  /** The configuration file. */
  readonly file: string
  /** Prints warnings about the configuration, once; throws if it is invalid. */
  readonly warn: () => Promise<void>
  readonly signals: SignalSource
  /** Exits immediately. */
  readonly exit: (code: number) => void
  /** Under `baton run`. */
  readonly run?: RunState
}

/**
 * Runs a master until the first SIGTERM, SIGINT or SIGQUIT, or `baton stop`, then drains it. Starts a new master, or resumes one
 * after exec. Signals that arrive while it starts are kept until they can be handled.
 *
 * @returns the exit code
 * @throws what `Master.start` throws
 */
export async function runMaster({ file, warn, signals, exit, run }: MasterProcess): Promise<number> {
  // Before any child is started, which would load the keeper as well.
  const keeper = forgetKeeper(process.env)
  if (keeper !== undefined) closeSync(keeper)
  let requestEnd: (signal: MasterSignal) => void
  const endRequested = new Promise<MasterSignal>((done) => (requestEnd = done))
  let master: Master | undefined
  let unwatch: (() => void) | undefined
  let count = 0
  const state = takeState(process.env)
  const runState = state === undefined ? run : (state.run ?? undefined)
  const log = new StartLog(runState === undefined ? 'json' : 'text', state?.log)
  let failed = false
  const onFailure = (error: unknown) => {
    if (failed) return
    failed = true
    log.logger.fatal(
      { err: error },
      runState === undefined
        ? 'the master failed; its worker goes on'
        : 'the master failed; its workers drain',
    )
    master?.leaveFiles()
    if (runState !== undefined) rmSync(runState.folder, { recursive: true, force: true })
    exit(FAILED)
  }
  // Node itself would write the error to standard error, and block if the reader has stopped.
  process.on('uncaughtException', onFailure)
  // npm forwards signals that the terminal has already sent to the whole process group.
  const isLaunched = findLaunchers().length > 0
  let first = 0
  const onEnd = (signal: MasterSignal) => {
    if (isLaunched && count === 1 && performance.now() - first < ECHO_WINDOW_MS) return
    first = performance.now()
    count += 1
    if (count === 1) return requestEnd(signal)
    log.logger.warn({ signal }, 'second signal: exiting immediately')
    master?.kill()
    return exit(FAILED)
  }
  /** Signals that arrived before the master was ready. */
  const early = new Set<MasterSignal>()
  const onSignal = (signal: MasterSignal) => {
    if (signal === 'SIGTERM' || signal === 'SIGINT' || signal === 'SIGQUIT') return onEnd(signal)
    // Under `baton run`, SIGHUP means that the terminal is gone, which a program under nohup(1) should survive.
    if (signal === 'SIGHUP' && runState !== undefined) return void (isUnderNohup() || onEnd(signal))
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
    const launchers = state === undefined && run === undefined ? findPackageRunners() : undefined
    const options = { log, program, run, launchers, notifier }
    if (state === undefined) {
      await warn()
      const given = PassedSockets.take(process.env, log.logger)
      // Not from getcwd(2): the folder may have been entered through a link, which each reload follows again.
      const { folder } = program.names
      process.env['PWD'] = folder
      master = await Master.start(resolve(folder, file), { ...options, given })
      given.close()
      log.take()
    } else master = Master.resume(state, options)
    const running = master
    closeStrayInspector(log.logger)
    for (const signal of early) onSignal(signal)
    const stopping = endRequested.then((signal) => running.stop(signal))
    const { watch: folder, watchedUntil, watchedNames } = runState ?? {}
    if (typeof folder === 'string') {
      unwatch = watchFolder(folder, (path) => running.redeploy(relative(folder, path)))
      if (watchedUntil !== undefined && hasChangedSince(folder, watchedUntil, watchedNames))
        running.redeploy()
    }
    await Promise.race([running.finished, stopping])
    await Promise.race([stopping, running.stopped])
    if (running.failure !== undefined) throw running.failure
    return DONE
  } finally {
    unwatch?.()
    if (runState !== undefined) rmSync(runState.folder, { recursive: true, force: true })
    for (const signal of MASTER_SIGNALS) signals.off(signal, onSignal)
    process.off('uncaughtException', onFailure)
  }
}
