import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { extname } from 'node:path'
import { MAX_PAGE_BYTES } from '../../api/maintenance.ts'
import { errnoOf } from '../../config/error.ts'
import { locate } from '../configuration.ts'
import { askBroker } from '../admin-client.ts'
import { otherVersion } from '../answers.ts'
import { configOption, DEFAULT_CONFIG, type Command } from '../command.ts'
import { UsageError } from '../output/terminal.ts'
import { CommandError, DONE, USAGE } from '../../exit-codes.ts'
import { controlPath } from './pause.ts'
import { SUMMARIES } from '../summaries.ts'

const TYPES: Readonly<Record<string, string>> = {
  '.json': 'application/json',
  '.txt': 'text/plain; charset=utf-8',
  '.xml': 'application/xml',
}

export const maintenance: Command = {
  name: 'maintenance',
  operands: ['SERVICE'],
  summary: SUMMARIES.maintenance,
  details: [
    'With --page, every new connection to a service gets 503 with this page and Retry-After on an http listener, and is closed on the',
    'others. So are connections that are held. Connections that backends have go on. The page is read once, now: at most 64 KiB. It outlives',
    'reloads, and the deaths of processes. With --off, new connections go to the backends again.',
  ].join('\n'),
  options: {
    page: { value: 'FILE', help: 'the page: HTML, or by its name .txt, .json or .xml' },
    off: { help: 'end the maintenance' },
    ...configOption,
  },
  async run({ operands, values, switches }, terminal) {
    const [service = ''] = operands
    const file = values.get('page')
    const off = switches.has('off')
    if (off === (file !== undefined)) throw new UsageError('maintenance needs either --page FILE or --off')
    const body =
      file === undefined
        ? { off: true }
        : {
            page: readPage(file).toString('base64'),
            type: TYPES[extname(file).toLowerCase()] ?? 'text/html; charset=utf-8',
          }
    const config = await locate(values.get('config') ?? DEFAULT_CONFIG)
    const answer: unknown = await askBroker(config, 'POST', controlPath(service, 'maintenance'), body)
    const { ended, maintenance: now } = Object(answer)
    if (typeof ended !== 'boolean') throw otherVersion('a maintenance')
    if (off) terminal.out(`${service}: ${ended ? 'in service again' : 'was not in maintenance'}`)
    else terminal.out(`${service}: in maintenance, with a page of ${String(Object(now).bytes)} bytes`)
    return DONE
  },
}

/** @throws CommandError */
function readPage(file: string): Buffer {
  const refuse = (why: string) =>
    new CommandError(`--page: ${JSON.stringify(file)} ${why}`, { exitCode: USAGE })
  let fd: number
  try {
    // Without waiting for the other end of a named pipe.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw refuse(`cannot be read (${errnoOf(error) ?? String(error)})`)
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw refuse('is not a file')
    // It may grow meanwhile.
    const bytes = Buffer.alloc(MAX_PAGE_BYTES + 1)
    let length = 0
    for (let read = -1; read !== 0 && length < bytes.length; length += read)
      read = readSync(fd, bytes, length, bytes.length - length, null)
    if (length > MAX_PAGE_BYTES)
      throw refuse(
        `is too large (${Math.max(stat.size, length)} bytes): a page has at most ${MAX_PAGE_BYTES}`,
      )
    return bytes.subarray(0, length)
  } finally {
    closeSync(fd)
  }
}
