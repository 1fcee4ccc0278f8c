import { type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import {
  fstatSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  createMemoryFile,
  createPipe,
  isCloseOnExec,
  isNonblocking,
  lockFile,
  lockFolder,
  type OwnedFd,
} from '../src/index.ts'
import {
  closing,
  codeOf,
  ended,
  nativeError,
  openDescriptors,
  startFixture,
  temporaryFolder,
} from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

void t.test('a memory file is read and written by its number', async (t) => {
  const before = openDescriptors()
  const memory = createMemoryFile('state ü')
  t.ok(isCloseOnExec(memory.fd))
  t.equal(readlinkSync(`/proc/self/fd/${memory.fd}`), '/memfd:state ü (deleted)')
  writeSync(memory.fd, 'Zoë')
  t.equal(fstatSync(memory.fd).size, 4)
  const bytes = Buffer.alloc(8)
  t.equal(readSync(memory.fd, bytes, 0, 8, 0), 4)
  t.equal(bytes.toString('utf8', 0, 4), 'Zoë')
  // Through another open file, which has its own offset.
  t.equal(readFileSync(`/proc/self/fd/${memory.fd}`, 'utf8'), 'Zoë')
  memory.close()
  t.equal(openDescriptors(), before)
  t.match(
    nativeError(() => createMemoryFile('x'.repeat(250))),
    { code: 'EINVAL', syscall: 'memfd_create' },
  )
  t.equal(
    codeOf(() => createMemoryFile('a\0b')),
    'BATON_ERR_INVALID_ARGUMENT',
  )
})

void t.test('a pipe ends for its reader when the last write end is closed', (t) => {
  const before = openDescriptors()
  for (const nonblocking of [false, true]) {
    const [readEnd, writeEnd] = createPipe({ nonblocking })
    for (const { fd } of [readEnd, writeEnd]) {
      t.ok(isCloseOnExec(fd))
      t.equal(isNonblocking(fd), nonblocking)
      t.ok(fstatSync(fd).isFIFO())
    }
    writeSync(writeEnd.fd, 'x')
    const copy = writeEnd.dup()
    writeEnd.close()
    const bytes = Buffer.alloc(2)
    t.equal(readSync(readEnd.fd, bytes), 1)
    copy.close()
    t.equal(readSync(readEnd.fd, bytes), 0)
    readEnd.close()
  }
  t.equal(openDescriptors(), before)
  t.end()
})

/** The next output of `child`. */
async function said(child: ChildProcess): Promise<string> {
  const [chunk] = (await once(child.stdout ?? child, 'data')) as [Buffer]
  return chunk.toString().trim()
}

void t.test(
  'a file has one holder of its lock, across exec and until SIGKILL',
  { timeout: LIMIT },
  async (t) => {
    const path = join(temporaryFolder(t), 'zwei Wörter.lock')
    const holder = startFixture('lock.mjs', [path], { stdio: ['pipe', 'pipe', 'inherit'] })
    t.teardown(() => holder.kill('SIGKILL'))
    t.equal(await said(holder), 'locked')
    t.equal(lstatSync(path).mode & 0o777, 0o600)
    const before = openDescriptors()
    t.equal(lockFile(path), undefined)
    t.equal(openDescriptors(), before)
    holder.stdin?.write('again\n')
    t.equal(await said(holder), 'still locked')
    t.equal(lockFile(path), undefined, 'held by the new program')
    const end = ended(holder)
    holder.kill('SIGKILL')
    t.equal((await end).signal, 'SIGKILL')
    const lock = lockFile(path) as OwnedFd
    closing(t, lock)
    t.ok(isCloseOnExec(lock.fd))
    t.equal(lockFile(path), undefined, 'nor does one process hold it twice')
    const copy = lock.dup()
    lock.close()
    t.equal(lockFile(path), undefined, 'a duplicate holds it too')
    copy.close()
    lockFile(path)?.close()
  },
)

void t.test('the error for a lock held elsewhere names the file', async (t) => {
  const folder = temporaryFolder(t)
  const before = openDescriptors()
  const missing = join(folder, 'none', 'lock')
  t.match(
    nativeError(() => lockFile(missing)),
    { code: 'ENOENT', syscall: 'open', path: missing, fd: -1 },
  )
  t.match(
    nativeError(() => lockFile(folder)),
    { code: 'EISDIR', syscall: 'open', path: folder },
  )
  t.equal(
    codeOf(() => lockFile(`${folder}/a\0b`)),
    'BATON_ERR_INVALID_ARGUMENT',
  )
  t.equal(openDescriptors(), before)
})

void t.test('a folder has one holder of its lock until SIGKILL', { timeout: LIMIT }, async (t) => {
  const parent = temporaryFolder(t)
  const path = join(parent, 'folder')
  mkdirSync(path)
  const holder = startFixture('lock.mjs', [path, 'folder'], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => holder.kill('SIGKILL'))
  t.equal(await said(holder), 'locked')
  const before = openDescriptors()
  t.equal(lockFolder(path), undefined)
  t.equal(openDescriptors(), before)
  const end = ended(holder)
  holder.kill('SIGKILL')
  t.equal((await end).signal, 'SIGKILL')
  const lock = lockFolder(path) as OwnedFd
  t.ok(isCloseOnExec(lock.fd))
  t.equal(lockFolder(path), undefined, 'nor does one process hold it twice')
  rmdirSync(path)
  mkdirSync(path)
  const other = lockFolder(path) as OwnedFd
  t.ok(other, 'another folder of the same name')
  other.close()
  lock.close()

  const link = join(parent, 'link')
  symlinkSync(path, link)
  const file = join(parent, 'file')
  writeFileSync(file, '')
  for (const [place, code] of [
    [link, 'ENOTDIR'],
    [file, 'ENOTDIR'],
    [join(parent, 'none'), 'ENOENT'],
  ] as const) {
    t.match(
      nativeError(() => lockFolder(place)),
      { code, syscall: 'open', path: place, fd: -1 },
    )
  }
})

void t.test(
  'a runtime whose fstat(2) refuses descriptors of others locks too',
  { timeout: LIMIT },
  async (t) => {
    // The failure was taken for a folder that had been replaced: a backend in Deno locked the same one again and again, and took all of a
    // processor.
    const path = temporaryFolder(t)
    const program = startFixture('foreign-descriptors.mjs', [path], { stdio: ['ignore', 'pipe', 'inherit'] })
    t.match(await ended(program), { code: 0, stdout: 'locked\n' })
  },
)
