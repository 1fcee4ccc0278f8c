import type { NackReason } from '@baton/backend-sdk/protocol'

/**
 * How one handoff attempt can fail. All but `PartialSend` prove that the backend never touched the connection, so that it may go
 * elsewhere (invariant I3).
 */
export type Failure =
  | { readonly code: 'UnsupportedPlatform' }
  | { readonly code: 'PermissionDenied'; readonly errno: number; readonly fd: number; readonly path: string }
  | { readonly code: 'BackendSocketUnavailable'; readonly errno: number; readonly path: string }
  | { readonly code: 'WouldBlock' }
  | { readonly code: 'FdPressure'; readonly errno: number }
  | { readonly code: 'PartialSend'; readonly sent: number }
  | { readonly code: 'SendFailed'; readonly errno: number }
  | { readonly code: 'BackendAckTimeout' }
  | { readonly code: NackReason }
  | { readonly code: 'BackendGone' }
  | { readonly code: 'ProtocolViolation' }

export type FailureCode = Failure['code']

/** Effect of a failure on the backend and on the client. */
export interface Consequence {
  /** Too many of these pause the backend (`FailureLimit`). Pressure and ordinary refusals are not its fault. */
  readonly countsAgainstBackend: boolean
  readonly next: 'next-backend' | 'wait' | 'reconnect' | 'never-reoffered'
}

const fault: Consequence = { countsAgainstBackend: true, next: 'next-backend' }
const refusal: Consequence = { countsAgainstBackend: false, next: 'next-backend' }

const CONSEQUENCES: Readonly<Record<FailureCode, Consequence>> = {
  UnsupportedPlatform: { countsAgainstBackend: false, next: 'reconnect' },
  PermissionDenied: fault,
  BackendSocketUnavailable: fault,
  WouldBlock: refusal,
  FdPressure: { countsAgainstBackend: false, next: 'wait' },
  PartialSend: { countsAgainstBackend: true, next: 'never-reoffered' },
  SendFailed: fault,
  BackendAckTimeout: fault,
  TokenMissing: fault,
  TokenInvalidLength: fault,
  TokenMismatch: fault,
  TokenExpired: fault,
  TokenNotPending: fault,
  ControlTruncated: refusal,
  BackendDraining: refusal,
  BackendOverloaded: refusal,
  NotResumable: refusal,
  BackendGone: fault,
  ProtocolViolation: fault,
}

export function consequenceOf(code: FailureCode): Consequence {
  return CONSEQUENCES[code]
}

const UNAVAILABLE = new Set(['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ENOTCONN'])
const PERMISSION = new Set(['EACCES', 'EPERM'])
const FULL = new Set(['EAGAIN', 'ENOBUFS', 'ENOMEM'])
const PRESSURE = new Set(['EMFILE', 'ENFILE', 'ETOOMANYREFS'])

/** Maps an errno of connect or send to a failure. `fd`: the descriptor that was to be sent, -1 if there was none yet. */
export function failureOf(
  error: { code?: string | undefined; errno?: number | undefined },
  path: string,
  fd: number,
): Failure {
  const code = error.code ?? ''
  // Node's own errors carry errno as a negative number.
  const errno = Math.abs(error.errno ?? 0)
  if (UNAVAILABLE.has(code)) return { code: 'BackendSocketUnavailable', errno, path }
  if (PERMISSION.has(code)) return { code: 'PermissionDenied', errno, path, fd }
  if (FULL.has(code)) return { code: 'WouldBlock' }
  if (PRESSURE.has(code)) return { code: 'FdPressure', errno }
  return { code: 'SendFailed', errno }
}
