import { OwnedFd, Poller, setCloseOnExec } from '@baton/native-sendmsg'
import { WORKER_CHANNEL } from '../channel/messages.ts'
import { createLogger, type LogFormat } from '../log/logger.ts'
import { exitProcess } from '../log/standard.ts'
import { Employee } from './employee.ts'

// The process of one worker: `main.js FORMAT`. Signals are its master's to obey: a terminal sends Ctrl-C to both, and a
// worker that ended by itself would be replaced.
process.on('SIGINT', () => {})
process.on('SIGHUP', () => {})
process.on('SIGTERM', () => {})
process.on('SIGUSR1', () => {})

const socket = new OwnedFd(WORKER_CHANNEL)
setCloseOnExec(socket.fd, true)
const logger = createLogger((process.argv[2] ?? 'json') as LogFormat)
const poller = new Poller({ afterWake: () => employee.flush(), holdBack: () => employee.busy() })
const employee: Employee = new Employee(socket, poller, logger, exitProcess)
