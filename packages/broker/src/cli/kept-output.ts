import { watch } from 'node:fs'
import { errnoOf } from '../config/error.ts'
import { locateServices } from '../config/file.ts'
import { nearMiss } from '../config/near-miss.ts'
import { CommandError, DONE, USAGE } from '../exit-codes.ts'
import { BackendFilter } from '../log/kept/backend-filter.ts'
import { keptFiles, outputFolder } from '../log/kept/files.ts'
import type { OutputLine } from '../log/kept/line.ts'
import { OutputReader, readTail } from '../log/kept/output-reader.ts'
import { paintFor } from './output/colours.ts'
import type { Terminal } from './output/terminal.ts'

/** How often a follower looks without having been told to, in ms: inotify may be unavailable, and the folder may not exist yet. */
const POLL_MS = 500

/** Lines that are written at a time. */
const BATCH = 256

/** What `baton logs` shows. */
export interface LogsRequest {
  readonly file: string
  readonly service: string | undefined
  readonly backend: string | undefined
  readonly follow: boolean
  readonly json: boolean
  /** In ms since the Unix epoch. */
  readonly since: number | undefined
  /** Number of the last lines; undefined for all. */
  readonly lines: number | undefined
}

/** The answer of `baton logs`. @throws CommandError */
export async function showLogs(request: LogsRequest, terminal: Terminal): Promise<number> {
  const { runtimeDir, services } = locateServices(request.file)
  const folder = outputFolder(runtimeDir)
  try {
    const names = await servicesOf(request, folder, services)
    const wanted = await wantedBy(request, folder, services)
    const printer = new Printer(request.json, terminal)
    const readers = await printFirst(request, folder, names, wanted, printer)
    if (request.follow) await follow(folder, readers, wanted, printer, terminal)
    for (const reader of readers) await reader.close()
    return DONE
  } catch (error) {
    if (error instanceof CommandError || errnoOf(error) === undefined) throw error
    throw new CommandError(`cannot read the kept output in ${folder}: ${(error as Error).message}`, {
      cause: error,
    })
  }
}

type Services = ReturnType<typeof locateServices>['services']

/** Those of the configuration that have a command, and those of which something is kept. */
async function servicesOf({ service }: LogsRequest, folder: string, services: Services): Promise<string[]> {
  const kept = await keptFiles(folder)
  const managed = [...services].filter(([, { managed: is }]) => is).map(([name]) => name)
  const known = [...new Set([...managed, ...kept.keys()])]
  if (service === undefined) return known
  if (known.includes(service)) return [service]
  if (services.has(service)) {
    const why = 'Baton does not start its backends (it has no "command"), so it does not see their output'
    throw new CommandError(`service ${service}: ${why}`, { exitCode: USAGE })
  }
  const all = [...new Set([...services.keys(), ...known])]
  const near = nearMiss(service, all)
  const hint = near === undefined ? `there are: ${all.join(', ')}` : `did you mean ${near}?`
  throw new CommandError(`there is no service ${JSON.stringify(service)}; ${hint}`, { exitCode: USAGE })
}

type Wanted = (line: OutputLine) => boolean

async function wantedBy(
  { service = '', backend, since }: LogsRequest,
  folder: string,
  services: Services,
): Promise<Wanted> {
  const start = since === undefined ? '' : new Date(since).toISOString()
  // Both are ISO 8601 in UTC, with the same digits.
  const isLate: Wanted = ({ time }) => time >= start
  if (backend === undefined) return isLate
  const filter = new BackendFilter(backend)
  // Of all that is kept, because a process has a slot only from its registration on.
  let isKnown = new RegExp(`^${service}\\.[1-9]\\d*$`).test(backend)
  isKnown &&= Number(backend.slice(service.length + 1)) <= (services.get(service)?.instances ?? 0)
  const reader = new OutputReader(folder, service)
  for await (const line of reader.read()) isKnown = filter.matches(line) || isKnown
  await reader.close()
  if (isKnown) return (line) => isLate(line) && filter.matches(line)
  const why = `nothing is kept of a backend ${JSON.stringify(backend)} of service ${service}`
  throw new CommandError(`${why}; name it by its instance (${service}.1), slot (${service}-1) or id`, {
    exitCode: USAGE,
  })
}

/** @returns readers behind what was printed */
async function printFirst(
  { lines, since = 0 }: LogsRequest,
  folder: string,
  names: readonly string[],
  wanted: Wanted,
  printer: Printer,
): Promise<OutputReader[]> {
  if (lines === undefined) {
    const readers = await Promise.all(names.map((name) => OutputReader.since(folder, name, since)))
    await printMerged(readers, wanted, printer)
    return readers
  }
  const readers: OutputReader[] = []
  let last: OutputLine[] = []
  for (const name of names) {
    const tail = await readTail(folder, name, { count: lines, wanted })
    // Stable: lines of one service keep their order.
    last = [...last, ...tail.lines].toSorted((one, other) => order(one, other)).slice(-lines)
    readers.push(new OutputReader(folder, name, tail.end))
  }
  if (lines > 0) for (const line of last) printer.print(line)
  printer.flush()
  return readers
}

function order(one: OutputLine, other: OutputLine): number {
  return one.time < other.time ? -1 : one.time > other.time ? 1 : 0
}

/** All lines up to the current end of each reader, by time. */
async function printMerged(
  readers: readonly OutputReader[],
  wanted: Wanted,
  printer: Printer,
): Promise<void> {
  const sources = readers.map((reader) => reader.read())
  const heads = await Promise.all(sources.map((source) => nextOf(source, wanted)))
  for (;;) {
    let first = -1
    for (const [index, head] of heads.entries()) {
      if (head === undefined) continue
      const best = heads[first]
      if (best === undefined || order(head, best) < 0) first = index
    }
    const [line, source] = [heads[first], sources[first]]
    if (line === undefined || source === undefined) break
    if (!printer.print(line)) break
    heads[first] = await nextOf(source, wanted)
  }
  printer.flush()
}

async function nextOf(source: AsyncGenerator<OutputLine>, wanted: Wanted): Promise<OutputLine | undefined> {
  for (;;) {
    const { value, done } = await source.next()
    if (done === true) return undefined
    if (wanted(value)) return value
  }
}

/** Returns when standard output has no reader left. */
async function follow(
  folder: string,
  readers: readonly OutputReader[],
  wanted: Wanted,
  printer: Printer,
  { unread }: Terminal,
): Promise<void> {
  while (unread?.aborted !== true) {
    // Watching begins before the next look, so that nothing is missed in between.
    const change = changeIn(folder)
    await printMerged(readers, wanted, printer)
    await change
  }
}

function changeIn(folder: string): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      watcher?.close()
      resolve()
    }
    const timer = setTimeout(done, POLL_MS)
    let watcher: ReturnType<typeof watch> | undefined
    try {
      watcher = watch(folder, done).on('error', () => {})
    } catch {
      // It does not exist yet.
    }
  })
}

/** Prints lines in batches. */
class Printer {
  readonly #format: (line: OutputLine) => string
  readonly #terminal: Terminal
  #lines: string[] = []

  constructor(json: boolean, terminal: Terminal) {
    this.#terminal = terminal
    const paint = paintFor(terminal)
    const plain = ({ time, instance, stream, msg }: OutputLine) => {
      const source = `${instance} ${stream}`
      return `${paint('dim', time)} ${stream === 'stderr' ? paint('red', source) : paint('cyan', source)} | ${msg}`
    }
    this.#format = json ? (line) => JSON.stringify(line) : plain
  }

  /** @returns whether the output is still read */
  print(line: OutputLine): boolean {
    this.#lines.push(this.#format(line))
    if (this.#lines.length >= BATCH) this.flush()
    return this.#terminal.unread?.aborted !== true
  }

  flush(): void {
    if (this.#lines.length > 0) this.#terminal.out(this.#lines.join('\n'))
    this.#lines = []
  }
}
