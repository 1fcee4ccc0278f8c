import type { Status } from '../api/status.ts'
import type { Config } from '../config/index.ts'
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
