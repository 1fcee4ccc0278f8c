import { watch } from 'node:fs'
import { BackendFilter } from '../log/kept/backend-filter.ts'
import { keptFiles } from '../log/kept/files.ts'
import type { OutputLine } from '../log/kept/line.ts'
import { OutputReader, readTail } from '../log/kept/output-reader.ts'
import type { Terminal } from './output/terminal.ts'

// The part of `baton logs` that reads files. Loaded when it is needed, so it imports nothing that other commands need too.

/** How often a follower looks without having been told to, in ms: inotify may be unavailable, and the folder may not exist yet. */
const POLL_MS = 500

/** Lines that are written at a time. */
const BATCH = 256

/** Lines that `baton logs` shows. */
export interface LogsRequest {
  /** See `outputFolder`. */
  readonly folder: string
  readonly services: readonly string[]
  /** Of one service. */
  readonly backend: string | undefined
  readonly follow: boolean
  /** In ms since the Unix epoch. */
  readonly since: number | undefined
  /** Number of the last lines; undefined for all. */
  readonly lines: number | undefined
  readonly format: (line: OutputLine) => string
}

/** Services of which something is kept. */
export async function keptServices(folder: string): Promise<string[]> {
  return [...(await keptFiles(folder)).keys()]
}

/** Whether something is kept of a backend of the service. */
export async function isKept(folder: string, service: string, backend: string): Promise<boolean> {
  return (await filterFor(folder, service, backend)).found
}

/** Prints the lines, in the order of their times. */
export async function printLogs(request: LogsRequest, terminal: Terminal): Promise<void> {
  const wanted = await wantedBy(request)
  const printer = new Printer(request.format, terminal)
  const readers = await printFirst(request, wanted, printer)
  if (request.follow) await follow(request.folder, readers, wanted, printer, terminal)
  for (const reader of readers) await reader.close()
}

type Wanted = (line: OutputLine) => boolean

async function wantedBy({ folder, services, backend, since }: LogsRequest): Promise<Wanted> {
  const start = since === undefined ? '' : new Date(since).toISOString()
  // Both are ISO 8601 in UTC, with the same digits.
  const isLate: Wanted = ({ time }) => time >= start
  const [service] = services
  if (backend === undefined || service === undefined) return isLate
  const { filter } = await filterFor(folder, service, backend)
  return (line) => isLate(line) && filter.matches(line)
}

/** Reads all that is kept, because a process has a slot only from its registration on. */
async function filterFor(
  folder: string,
  service: string,
  backend: string,
): Promise<{ filter: BackendFilter; found: boolean }> {
  const filter = new BackendFilter(backend)
  const reader = new OutputReader(folder, service)
  let found = false
  for await (const line of reader.read()) found = filter.matches(line) || found
  await reader.close()
  return { filter, found }
}

/** @returns readers behind what was printed */
async function printFirst(
  { folder, services, lines, since = 0 }: LogsRequest,
  wanted: Wanted,
  printer: Printer,
): Promise<OutputReader[]> {
  if (lines === undefined) {
    const readers = await Promise.all(services.map((name) => OutputReader.since(folder, name, since)))
    await printMerged(readers, wanted, printer)
    return readers
  }
  const readers: OutputReader[] = []
  let last: OutputLine[] = []
  for (const name of services) {
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
  const signal = unread ?? new AbortController().signal
  while (!signal.aborted) {
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

  constructor(format: (line: OutputLine) => string, terminal: Terminal) {
    this.#format = format
    this.#terminal = terminal
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
