import type { OwnedFd } from '@baton/native-sendmsg'
import { clearMarks, readMarks } from '../../ipc/copies.ts'
import { factsOf } from '../../supervise/proc.ts'
import { workerKey } from '../workers/copy-store.ts'
import type { Survivor } from '../workers/kept-copy.ts'
import { closeCopies } from '../workers/worker-copies.ts'
import { readRecord } from './records.ts'
import { formatName, type StoredName, type WaitingName } from './stored-names.ts'

/** A descriptor that the service manager has kept since an earlier start. */
export interface StoredFd {
  readonly name: StoredName
  readonly fd: OwnedFd
}

/** Connections that have outlived every process of the broker. */
export interface RestoredWaiting {
  /** In order of arrival. */
  readonly survivors: readonly Survivor[]
  /** To be called right before they go anywhere: until then, the next start would get them. */
  readonly release: () => void
}

/**
 * Finds the connections that still waited when their worker ended: its marks decide. Those of a worker that is alive are its own. Owns the descriptors,
 * and closes the rest.
 *
 * @param remove what is no longer to be stored
 */
export function restoreWaiting(stored: readonly StoredFd[], remove: (name: string) => void): RestoredWaiting {
  const files = new Map(stored.map(({ name, fd }) => [formatName(name), fd]))
  const marks = new Map<string, Uint32Array>()
  for (const { name, fd } of stored)
    if (name.kind === 'marks' && !isAlive(name.worker)) marks.set(name.worker, readMarks(fd.fd))
  const survivors: (Survivor & { readonly worker: string })[] = []
  const others: Pick<Survivor, 'fd' | 'reachable'>[] = []
  for (const { name, fd } of stored) {
    if (name.kind !== 'waiting') continue
    const record = recordOf(name, files)
    const counts = record !== undefined && marks.get(name.worker)?.[name.slot] === name.number
    if (counts) survivors.push({ ...record, fd })
    // Whatever it is: closing it never blocks.
    else others.push({ fd, reachable: true })
  }
  closeCopies(others)
  const names = [...files.keys()]
  const release = () => {
    for (const { name, fd } of stored) {
      if (name.kind === 'marks' && marks.has(name.worker)) clearMarks(fd.fd)
      if (name.kind !== 'waiting') fd.close()
    }
    for (const name of names) remove(name)
  }
  if (survivors.length === 0) release()
  survivors.sort((a, b) => startOf(a.worker) - startOf(b.worker) || a.copy.order - b.copy.order)
  return { survivors, release: survivors.length === 0 ? () => {} : release }
}

/** See `workerKey`. */
function startOf(worker: string): number {
  return Number(worker.split('-')[1])
}

function recordOf(name: WaitingName, files: ReadonlyMap<string, OwnedFd>) {
  const file = files.get(formatName({ kind: 'records', id: name.records }))
  const record = file === undefined ? undefined : readRecord(file.fd, name.offset)
  const { worker, slot, number } = name
  const isOfIt = record?.worker === worker && record.copy.slot === slot && record.copy.number === number
  return isOfIt ? record : undefined
}

function isAlive(worker: string): boolean {
  const facts = factsOf(Number(worker.split('-')[0]))
  return facts !== undefined && workerKey(facts) === worker && facts.state !== 'Z' && facts.state !== 'X'
}
