export { type Attachment, type AttachHooks, attachServer, type IdleConnection } from './attachment.ts'
export { AttachError, type AttachErrorCode, attachMessages } from './errors.ts'
export { withoutUnread } from './idle-connections.ts'
export type { AttachableServer, ServerKind } from './server-kind.ts'
