import { OwnedFd, Poller, setCloseOnExec } from '@baton/native-sendmsg'
import { WORKER_CHANNEL } from '../ipc/messages.ts'
import { createLogger, type LogFormat } from '../log/logger.ts'
import { Employee } from './supervised-worker.ts'

// The process of one worker: `main.js FORMAT`. Signals are its master's to obey: a terminal sends Ctrl-C to both, and a
// worker that ended by itself would be replaced.
process.on('SIGINT', () => {})
process.on('SIGHUP', () => {})
process.on('SIGTERM', () => {})

const socket = new OwnedFd(WORKER_CHANNEL)
setCloseOnExec(socket.fd, true)
const logger = createLogger((process.argv[2] ?? 'json') as LogFormat)
const poller = new Poller({ afterWake: () => employee.flush(), holdBack: () => employee.busy() })
const employee: Employee = new Employee(socket, poller, logger, (code) => process.exit(code))
