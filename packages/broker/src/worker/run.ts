import { OwnedFd, Poller, setCloseOnExec } from '@baton/native-sendmsg'
import { WORKER_CHANNEL } from '../ipc/messages.ts'
import { createLogger, type LogFormat } from '../log/logger.ts'
import { exitProcess } from '../log/standard.ts'
import { closeStrayInspector, ignoreMeaninglessSignals } from '../signals.ts'
import { SupervisedWorker } from './supervised-worker.ts'

/** Runs this process as a worker of its master. The caller has installed signal handlers. */
export function runWorker(format: string | undefined): void {
  ignoreMeaninglessSignals()
  const socket = new OwnedFd(WORKER_CHANNEL)
  setCloseOnExec(socket.fd, true)
  const logger = createLogger((format ?? 'json') as LogFormat)
  const poller = new Poller({ afterWake: () => worker.flush(), holdBack: () => worker.busy() })
  const worker: SupervisedWorker = new SupervisedWorker(socket, poller, logger, exitProcess)
  closeStrayInspector(logger)
}
