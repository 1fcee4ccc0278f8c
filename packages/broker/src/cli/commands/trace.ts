import { loadConfig, type Config } from '../../config/config.ts'
import { askBroker, RefusedError } from '../admin-client.ts'
import { paintFor } from '../output/colours.ts'
import { configOption, DEFAULT_CONFIG, type Command, type Invocation } from '../command.ts'
import { checkedRecord, checkedRecords } from '../answers.ts'
import { UsageError, type Terminal } from '../output/terminal.ts'
import { DONE, CommandError } from '../../exit-codes.ts'
import { describeRecord, listRecords } from '../output/timeline.ts'

/** 26 letters and digits of Crockford's alphabet (github.com/ulid/spec), which has no capitals to insist on. */
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/i
/** Of the API. */
const MAX_RECORDS = 1000

export const trace: Command = {
  name: 'trace',
  operands: ['[ID]'],
  summary: 'show what became of a connection',
  details: [
    'Shows the flight record of one connection, by its id (the one in logs, and of `backend.connection(socket).id` in the',
    'app): each step on its way with its time since accept. With --slowest, lists the recorded connections that took',
    'longest from accept to their outcome. Only the last connections are recorded.',
  ].join('\n'),
  options: {
    slowest: { value: 'N', help: `list so many of the slowest, at most ${MAX_RECORDS}` },
    service: { value: 'SERVICE', help: 'with --slowest: those of one service' },
    json: { help: 'print what the admin API answers' },
    ...configOption,
  },
  async run(given, terminal) {
    const asked = parse(given)
    const config = loadConfig(given.values.get('config') ?? DEFAULT_CONFIG)
    if (asked.id === undefined) await showSlowest(config, asked.query, given, terminal)
    else await showOne(config, asked.id, given, terminal)
    return DONE
  },
}

type Asked = { readonly id: string } | { readonly id: undefined; readonly query: URLSearchParams }

function parse({ operands, values }: Invocation): Asked {
  const [id] = operands
  const slowest = values.get('slowest')
  const service = values.get('service')
  if (id !== undefined) {
    if (slowest !== undefined) throw new UsageError('trace takes either ID or --slowest')
    if (service !== undefined) throw new UsageError('--service goes with --slowest')
    if (!ULID.test(id))
      throw new UsageError(`${JSON.stringify(id)} is no id of a connection: 26 letters and digits`)
    return { id: id.toUpperCase() }
  }
  if (slowest === undefined) throw new UsageError('trace needs ID, or --slowest N')
  if (!/^[1-9]\d*$/.test(slowest) || Number(slowest) > MAX_RECORDS)
    throw new UsageError(`--slowest: ${JSON.stringify(slowest)} is no number from 1 to ${MAX_RECORDS}`)
  const query = new URLSearchParams({ slowest: 'true', limit: slowest })
  if (service !== undefined) query.set('service', service)
  return { id: undefined, query }
}

async function showOne(
  config: Config,
  id: string,
  { switches }: Invocation,
  terminal: Terminal,
): Promise<void> {
  const record = checkedRecord(await askRecorder(config, `/api/v1/connections/${id}`))
  if (switches.has('json')) terminal.out(JSON.stringify(record, undefined, 2))
  else for (const line of describeRecord(record, paintFor(terminal))) terminal.out(line)
}

async function showSlowest(
  config: Config,
  query: URLSearchParams,
  { switches }: Invocation,
  terminal: Terminal,
): Promise<void> {
  const answer = await askRecorder(config, `/api/v1/connections?${query.toString()}`)
  const records = checkedRecords(answer)
  if (switches.has('json')) terminal.out(JSON.stringify(answer, undefined, 2))
  else for (const line of listRecords(records, paintFor(terminal))) terminal.out(line)
}

async function askRecorder(config: Config, path: string): Promise<unknown> {
  try {
    return await askBroker(config, 'GET', path)
  } catch (error) {
    if (error instanceof RefusedError && error.code === 'BATON_ERR_ADMIN_NO_ROUTE')
      throw new CommandError('the broker has no flight recorder; is it of another version?', { cause: error })
    throw error
  }
}
