export { type Change, type ChangedBackend, type ChangeKind } from '../../api/change.ts'
export type { Counted, ServiceRates } from './rates.ts'
export { EventFeed, type EventSink, type EventSource, MAX_STREAMS } from './event-feed.ts'
