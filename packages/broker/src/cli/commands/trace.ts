import type { BrokerPlace } from '../../config/file.ts'
import { locate } from '../configuration.ts'
import { askBroker, RefusedError, unexpectedAnswer } from '../admin-client.ts'
import { paintFor } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command, type Invocation } from '../command.ts'
import { checkedRecord, checkedRecords } from '../answers.ts'
import { UsageError, type Terminal } from '../output/terminal.ts'
import { DONE } from '../../exit-codes.ts'
import { describeRecord, listRecords } from '../output/timeline.ts'
import { SUMMARIES } from '../summaries.ts'

/** 26 characters of Crockford's base 32, in upper or lower case (github.com/ulid/spec). */
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/i
/** Limit of the API. */
const MAX_RECORDS = 1000

export const trace: Command = {
  name: 'trace',
  operands: ['[ID]'],
  summary: SUMMARIES.trace,
  details: [
    'Shows the flight record of one connection, over all processes that had it: each step with its time since accept. The id is',
    'in the logs; in the app it is `backend.connection(socket).id`. With --slowest, lists the recorded connections that took',
    'longest from accept, or from their next request after they were parked, to their outcome. Each worker records its last',
    'connections, so after a reload there are none at first.',
  ].join('\n'),
  options: {
    slowest: { value: 'N', help: `list the N slowest, at most ${MAX_RECORDS}` },
    service: { value: 'SERVICE', help: 'with --slowest: only connections of this service' },
    json: { help: 'print the response of the admin API' },
    ...configOption,
  },
  async run(given, terminal) {
    const request = parse(given)
    const config = await locate(given.values.get('config') ?? DEFAULT_CONFIG)
    if (request.id === undefined) await showSlowest(config, request.query, given, terminal)
    else await showOne(config, request.id, given, terminal)
    return DONE
  },
}

type Request = { readonly id: string } | { readonly id: undefined; readonly query: URLSearchParams }

function parse({ operands, values }: Invocation): Request {
  const [id] = operands
  const slowest = values.get('slowest')
  const service = values.get('service')
  if (id !== undefined) {
    if (slowest !== undefined) throw new UsageError('trace takes either ID or --slowest')
    if (service !== undefined) throw new UsageError('--service needs --slowest')
    if (!ULID.test(id))
      throw new UsageError(`${JSON.stringify(id)} is not a connection id: 26 letters and digits`)
    return { id: id.toUpperCase() }
  }
  if (slowest === undefined) throw new UsageError('trace needs ID, or --slowest N')
  if (!/^[1-9]\d*$/.test(slowest) || Number(slowest) > MAX_RECORDS)
    throw new UsageError(`--slowest: ${JSON.stringify(slowest)} must be a number from 1 to ${MAX_RECORDS}`)
  const query = new URLSearchParams({ slowest: 'true', limit: slowest })
  if (service !== undefined) query.set('service', service)
  return { id: undefined, query }
}

async function showOne(
  config: BrokerPlace,
  id: string,
  { switches }: Invocation,
  terminal: Terminal,
): Promise<void> {
  const record = checkedRecord(await askRecorder(config, `/api/v1/connections/${id}`))
  if (switches.has('json')) terminal.out(JSON.stringify(record, undefined, 2))
  else for (const line of describeRecord(record, paintFor(terminal))) terminal.out(line)
}

async function showSlowest(
  config: BrokerPlace,
  query: URLSearchParams,
  { switches }: Invocation,
  terminal: Terminal,
): Promise<void> {
  const answer = await askRecorder(config, `/api/v1/connections?${query.toString()}`)
  const { connections, capacity } = checkedRecords(answer)
  if (switches.has('json')) terminal.out(JSON.stringify(answer, undefined, 2))
  else if (connections.length === 0) terminal.out(whyNone(capacity))
  else for (const line of listRecords(connections, paintFor(terminal))) terminal.out(line)
}

function whyNone(capacity: number): string {
  if (capacity === 0) return 'no connection is recorded: "recorder" is 0 in the configuration'
  return 'no connection is recorded yet: each worker records its own, and a start or a reload begins with a new worker'
}

async function askRecorder(config: BrokerPlace, path: string): Promise<unknown> {
  try {
    return await askBroker(config, 'GET', path)
  } catch (error) {
    if (error instanceof RefusedError && error.code === 'BATON_ERR_ADMIN_NO_ROUTE')
      throw unexpectedAnswer('the broker has no flight recorder; is it a different version?', {
        cause: error,
      })
    throw error
  }
}
