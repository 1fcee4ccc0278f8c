import type { FlightRecord } from '../api/flight-record.ts'
import { CommandError } from '../exit-codes.ts'

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
