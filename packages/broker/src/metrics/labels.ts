import type { GivenBackReason } from '@baton/backend-sdk/protocol'

/** How an accepted connection can end. Each has exactly one outcome (I4). */
export const OUTCOMES = [
  'handed_off',
  'relayed',
  'rejected',
  'client_gone',
  'relinquished',
  'idle_closed',
] as const
export type Outcome = (typeof OUTCOMES)[number]

/**
 * The outcome, or the reason, of connections that a worker owned when it was killed, and of those whose outcome it could not count any more. Only a
 * master counts them.
 */
export const LOST = 'lost'

/** Why a connection was rejected: hold timeout, hold queue full, the broker is stopping, or the service is in maintenance. */
export const REJECTION_REASONS = ['hold_timeout', 'hold_full', 'shutdown', 'maintenance'] as const
export type RejectionReason = (typeof REJECTION_REASONS)[number]

/**
 * Why a connection went to no service: no route took it, HTTP parsers could read its head in two ways, a trusted peer sent no valid PROXY header,
 * the client left before the choice, the broker was stopping, or a limit was reached: new connections of this source, its open ones, or all open
 * ones of the listener.
 */
export const UNROUTED_REASONS = [
  'no_route',
  'ambiguous',
  'proxy_header',
  'client_gone',
  'shutdown',
  'limit_rate',
  'limit_source_connections',
  'limit_connections',
] as const
export type UnroutedReason = (typeof UNROUTED_REASONS)[number]

/** Why a backend refused a token. */
export const TOKEN_REASONS = [
  'TokenMissing',
  'TokenInvalidLength',
  'TokenMismatch',
  'TokenExpired',
  'TokenNotPending',
] as const
export type TokenReason = (typeof TOKEN_REASONS)[number]

/** Every way that a handoff attempt can fail. */
export const FAILURE_REASONS = [
  'UnsupportedPlatform',
  'PermissionDenied',
  'BackendSocketUnavailable',
  'WouldBlock',
  'FdPressure',
  'PartialSend',
  'SendFailed',
  'BackendAckTimeout',
  ...TOKEN_REASONS,
  'ControlTruncated',
  'BackendDraining',
  'BackendOverloaded',
  'NotResumable',
  'BackendGone',
  'ProtocolViolation',
] as const
export type FailureReason = (typeof FAILURE_REASONS)[number]

/** The broker's next step for a connection that was not handed off at the first attempt. */
export const FALLBACK_ACTIONS = ['next_backend', 'reconnect', 'hold', 'reject'] as const
export type FallbackAction = (typeof FALLBACK_ACTIONS)[number]

/** Why: a failed attempt, a policy that allowed no attempt, no backend to try, or an operator. */
export const FALLBACK_REASONS = [
  ...FAILURE_REASONS,
  'ServicePolicyDisabled',
  'FailedAttemptRateLimited',
  'NoReadyBackend',
  'ServicePaused',
  'ServiceMaintenance',
] as const
export type FallbackReason = (typeof FALLBACK_REASONS)[number]

export const BACKEND_STATES = [
  'ready',
  'starting',
  'draining',
  'unresponsive',
  'unhealthy',
  'paused',
] as const
export type BackendState = (typeof BACKEND_STATES)[number]

/** Kinds of connections that are handed back; see `HANDBACK_KINDS` of the protocol. */
export { HANDBACK_KINDS, type HandBackKind } from '@baton/backend-sdk/protocol'

/** The broker's answer to a connection that was handed back. */
export const HANDBACK_RESULTS = ['taken', 'given_back', 'refused'] as const
export type HandBackResult = (typeof HANDBACK_RESULTS)[number]

/** Why it was not taken: given back, or refused because the backend broke the protocol. */
export type NotTakenReason = GivenBackReason | 'ProtocolViolation'

/** The backends that connections are shifted to, and the other ones. */
export const SHIFT_SIDES = ['to', 'others'] as const
export type ShiftSide = (typeof SHIFT_SIDES)[number]

/** Why Baton replaces a managed process by itself: `maxMemory`, or `restartEvery`. */
export const REPLACEMENT_REASONS = ['memory', 'schedule'] as const
export type ReplacementReason = (typeof REPLACEMENT_REASONS)[number]

/** Whether its successor became ready. */
export const REPLACEMENT_RESULTS = ['success', 'failure'] as const
export type ReplacementResult = (typeof REPLACEMENT_RESULTS)[number]

/** Seen from the client: `in` is what it sends. */
export const RELAY_DIRECTIONS = ['in', 'out'] as const
export type RelayDirection = (typeof RELAY_DIRECTIONS)[number]
