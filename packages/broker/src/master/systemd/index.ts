export { Notifier } from './notify.ts'
export { GivenSockets, type WantedSocket } from './socket-activation.ts'
