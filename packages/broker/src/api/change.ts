/** What has changed, as the stream of events tells it. */
export interface Change {
  readonly kind: ChangeKind
  readonly service?: string
  readonly backend?: ChangedBackend
  readonly from?: string
  readonly to?: string
  /** Who asked for it. */
  readonly by?: string
  /** One plain sentence. */
  readonly text: string
}

export type ChangeKind =
  | 'backend_registered'
  | 'backend_deregistered'
  | 'backend_state'
  | 'drain'
  | 'reload'
  | 'deploy'
  | 'broker_state'

export interface ChangedBackend {
  /** ULID. */
  readonly id: string
  readonly slot: string
  readonly version: string | null
  readonly pid: number
}
