import type { FlightRecord } from '../api/flight-record.ts'
import type { Status } from '../api/status.ts'
import type { BrokerPlace } from '../config/file.ts'
import { askBroker, unexpectedAnswer } from './admin-client.ts'
import type { CommandError } from '../exit-codes.ts'

/** @throws CommandError when the broker cannot be reached, refuses, or gives an unexpected answer */
export async function askStatus(config: BrokerPlace, signal?: AbortSignal): Promise<Status> {
  return checkedStatus(await askBroker(config, 'GET', '/api/v1/status', undefined, signal))
}

/** @throws CommandError when it is not a status of this version */
export function checkedStatus(answer: unknown): Status {
  const { broker, listeners, services } = Object(answer)
  if (typeof broker === 'object' && Array.isArray(listeners) && Array.isArray(services))
    return answer as Status
  throw otherVersion('a status')
}

/** @throws CommandError when it is not a record of this version */
export function checkedRecord(answer: unknown): FlightRecord {
  const { id, steps } = Object(answer)
  if (typeof id === 'string' && Array.isArray(steps)) return answer as FlightRecord
  throw otherVersion('a record')
}

/** Response of `GET /api/v1/connections`. */
export interface RecordList {
  readonly connections: readonly FlightRecord[]
  /** Connections that the recorder can hold; 0 where nothing is recorded. */
  readonly capacity: number
}

/** @throws CommandError when it is not a list of records of this version */
export function checkedRecords(answer: unknown): RecordList {
  const { connections, capacity } = Object(answer)
  if (!Array.isArray(connections)) throw otherVersion('records')
  return { connections: connections.map(checkedRecord), capacity: Number(capacity ?? 0) }
}

export function otherVersion(wanted: string): CommandError {
  return unexpectedAnswer(`the broker answered without ${wanted}; is it a different version?`)
}
