import { rmSync } from 'node:fs'
import { resolve } from 'node:path'
import { takeEarlySignals } from '../cli/early-signals.ts'
import { DONE, FAILED } from '../cli/terminal.ts'
import { GivenSockets, Notifier } from '../systemd/index.ts'
import { InstalledProgram } from './installed-program.ts'
import { Master } from './master.ts'
import { StartLog } from './start-log.ts'
import { watchFolder } from './watch-folder.ts'
import { type RunState, takeState } from './state.ts'

type Signal = 'SIGTERM' | 'SIGINT' | 'SIGHUP'

/** Where signals come from: the process. */
export interface SignalSource {
  on(signal: Signal, listener: (signal: Signal) => void): unknown
  off(signal: Signal, listener: (signal: Signal) => void): unknown
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
 * Runs a master until the first SIGTERM or SIGINT, or `baton stop`, then drains it. Begins anew, or goes on where the program
 * that this one has replaced left off. A signal that comes while it starts is kept until it can be obeyed.
 *
 * @returns the exit code
 * @throws what `Master.start` throws
 */
export async function runMaster({ file, warn, signals, exit, run }: MasterProcess): Promise<number> {
  let obey: (signal: Signal) => void
  const asked = new Promise<Signal>((done) => (obey = done))
  let master: Master | undefined
  let unwatch: (() => void) | undefined
  let count = 0
  const state = takeState(process.env)
  const ofRun = state === undefined ? run : (state.run ?? undefined)
  const log = new StartLog(ofRun === undefined ? 'json' : 'text')
  const onEnd = (signal: Signal) => {
    count += 1
    if (count === 1) return obey(signal)
    log.logger.warn({ signal }, 'second signal: ending at once')
    master?.kill()
    return exit(FAILED)
  }
  let hungUp = false
  const onHangUp = () => {
    // Under `baton run` it is what it says: the terminal is gone.
    if (ofRun !== undefined) onEnd('SIGHUP')
    else if (master === undefined) hungUp = true
    else master.reload()
  }
  signals.on('SIGTERM', onEnd)
  signals.on('SIGINT', onEnd)
  signals.on('SIGHUP', onHangUp)
  for (const signal of takeEarlySignals()) {
    if (signal === 'SIGHUP') onHangUp()
    else onEnd(signal)
  }
  try {
    const notifier = Notifier.take(process.env, log.logger)
    const program = InstalledProgram.ofProcess(state?.program)
    const options = { log, program, run, notifier }
    if (state === undefined) {
      warn()
      const given = GivenSockets.take(process.env, log.logger)
      // Not by getcwd(2): the folder may have been entered through a link, which is followed again at each reload.
      const { folder } = program.names
      process.env['PWD'] = folder
      master = await Master.start(resolve(folder, file), { ...options, given })
      given.close()
    } else master = await Master.resume(state, options)
    log.take()
    const running = master
    if (hungUp) running.reload()
    const folder = ofRun?.watch
    if (typeof folder === 'string') unwatch = watchFolder(folder, () => running.redeploy())
    await Promise.race([asked.then((signal) => running.stop(signal)), running.stopped])
    return DONE
  } finally {
    unwatch?.()
    if (ofRun !== undefined) rmSync(ofRun.folder, { recursive: true, force: true })
    signals.off('SIGTERM', onEnd)
    signals.off('SIGINT', onEnd)
    signals.off('SIGHUP', onHangUp)
  }
}
