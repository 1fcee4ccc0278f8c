import type { FlightRecord } from '../api/flight-record.ts'
import type { Status } from '../api/status.ts'
import type { Config } from '../config/config.ts'
import { askBroker } from './admin-client.ts'
import { CommandError } from '../exit-codes.ts'

/** @throws CommandError when nobody answers, or somebody else */
export async function askStatus(config: Config, signal?: AbortSignal): Promise<Status> {
  return checkedStatus(await askBroker(config, 'GET', '/api/v1/status', undefined, signal))
}

/** @throws CommandError for what is no status of this version */
export function checkedStatus(answer: unknown): Status {
  const { broker, listeners, services } = Object(answer)
  if (typeof broker === 'object' && Array.isArray(listeners) && Array.isArray(services))
    return answer as Status
  throw new CommandError('the broker answered without a status; is it of another version?')
}

/** @throws CommandError for what is no record of this version */
export function checkedRecord(answer: unknown): FlightRecord {
  const { id, steps } = Object(answer)
  if (typeof id === 'string' && Array.isArray(steps)) return answer as FlightRecord
  throw new CommandError('the broker answered without a record; is it of another version?')
}

/** @throws CommandError for what is no list of them */
export function checkedRecords(answer: unknown): FlightRecord[] {
  const { connections } = Object(answer)
  if (!Array.isArray(connections))
    throw new CommandError('the broker answered without records; is it of another version?')
  return connections.map(checkedRecord)
}
