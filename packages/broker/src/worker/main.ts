import { OwnedFd, Poller, setCloseOnExec } from '@baton/native-sendmsg'
import { pino } from 'pino'
import { WORKER_CHANNEL } from '../channel/messages.ts'
import { Employee } from './employee.ts'

// The process of one worker. Signals are its master's to obey: a terminal sends Ctrl-C to both, and a worker that ended by
// itself would be replaced.
process.on('SIGINT', () => {})
process.on('SIGHUP', () => {})
process.on('SIGTERM', () => {})

const socket = new OwnedFd(WORKER_CHANNEL)
setCloseOnExec(socket.fd, true)
const poller = new Poller({ afterWake: () => employee.flush() })
const employee: Employee = new Employee(socket, poller, pino({ name: 'baton' }), (code) => process.exit(code))
