export { Notifier } from './notify.ts'
export { PassedSockets, type WantedSocket } from './socket-activation.ts'
