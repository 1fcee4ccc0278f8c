import { execFileSync, spawnSync } from 'node:child_process'
import {
  closeSync,
  constants,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { constants as os, tmpdir } from 'node:os'
import { join } from 'node:path'
import { ignoreSignal, isNonblocking, poll, POLLIN, recv, socketpair } from '@baton/native-sendmsg'
import * as fc from 'fast-check'
import t, { type Test } from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { LineBuffer } from '../src/log/line-buffer.ts'
import { Sink } from '../src/log/sink.ts'

function folder(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'baton-t-'))
  t.teardown(() => rmSync(path, { recursive: true, force: true }))
  return path
}

void t.test('lines that are not dropped are written once, in order, in pieces of whole lines', async (t) => {
  const line = fc.integer({ min: 1, max: 60 }).map((size) => Buffer.from(`${'x'.repeat(size - 1)}\n`))
  const step = fc.oneof(line, fc.integer({ min: 0, max: 100 }))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const buffer = new LineBuffer({ limit: 300, reserve: 50 })
      let accepted = ''
      let out = ''
      let pushed = 0
      for (const each of steps) {
        if (typeof each === 'number') {
          const piece = buffer.next(50)
          const whole = piece.length === 0 || piece.at(-1) === 0x0a
          const alone = piece.indexOf(0x0a) === piece.length - 1
          if (!whole || (piece.length > 50 && !alone)) return false
          const count = Math.min(each, piece.length)
          out += piece.toString('latin1', 0, count)
          buffer.written(count)
          if (buffer.mayResume) buffer.resume()
        } else {
          pushed += 1
          const before = buffer.dropped
          buffer.push(each, each.length % 2 === 0 ? 'own' : 'output')
          if (buffer.dropped === before) accepted += each.toString()
        }
        if (buffer.size > 300) return false
      }
      const lines = accepted.split('\n').length - 1
      return out + buffer.rest().toString() === accepted && lines + buffer.dropped === pushed
    }),
  )
  t.pass()
})

void t.test('after a dropped line all lines are dropped, until half of the buffer is free', async (t) => {
  const buffer = new LineBuffer({ limit: 100, reserve: 0 })
  for (let index = 0; index < 12; index++) buffer.push(Buffer.from('123456789\n'), 'own')
  t.equal(buffer.dropped, 2)
  t.equal(buffer.next(40).length, 40)
  buffer.written(40)
  buffer.push(Buffer.from('short\n'), 'own')
  t.match(buffer, { dropped: 3, mayResume: false })
  buffer.written(10)
  t.match(buffer, { mayResume: true, unreported: 3 })
  t.equal(buffer.resume(), 3)
  buffer.push(Buffer.from('short\n'), 'own')
  t.match(buffer, { dropped: 3, unreported: 0, size: 56 })
})

void t.test('output of an app leaves room for log lines about it', async (t) => {
  const buffer = new LineBuffer({ limit: 100, reserve: 30 })
  for (let index = 0; index < 20; index++) buffer.push(Buffer.from('123456789\n'), 'output')
  t.match(buffer, { size: 70, dropped: 13 })
  buffer.push(Buffer.from('restarted\n'), 'own')
  t.match(buffer, { size: 80, dropped: 13 })
  buffer.next(30)
  buffer.written(25)
  buffer.push(Buffer.from('more\n'), 'output')
  t.match(buffer, { size: 55, dropped: 14, mayResume: false }, 'still one gap')
  for (let index = 0; index < 10; index++) buffer.push(Buffer.from('restarted\n'), 'own')
  t.match(buffer, { size: 95, dropped: 20 })
})

void t.test('a partial line is finished after an exec, and pending notices are logged', async (t) => {
  const first = new LineBuffer({ limit: 20, reserve: 0 })
  first.push(Buffer.from('abc\n'), 'own')
  first.push(Buffer.from('def\n'), 'own')
  first.push(Buffer.from('x'.repeat(40)), 'own')
  first.next(4)
  first.written(2)
  const second = new LineBuffer({ limit: 20, reserve: 0 })
  second.restore(first.rest(), first)
  t.equal(second.rest().toString(), 'c\ndef\n')
  t.equal(second.next(100).toString(), 'c\n', 'only the rest of a line')
  t.match(second, { size: 6, dropped: 1, unreported: 1, mayResume: true })
})

// After a full disk and a rotation, the old file ended in half a line, and the new one began with the other half.
void t.test('a partial line is written again in another file, also after an exec', async (t) => {
  const line = fc.integer({ min: 1, max: 60 }).map((size) => Buffer.from(`${'x'.repeat(size - 1)}\n`))
  const step = fc.oneof(line, fc.integer({ min: 0, max: 100 }), fc.constantFrom('another file', 'exec'))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      let buffer = new LineBuffer({ limit: 300, reserve: 0 })
      let accepted = ''
      const files = ['']
      for (const each of steps) {
        if (each === 'exec') {
          const next = new LineBuffer({ limit: 300, reserve: 0 })
          next.restore(buffer.rest(), { ...countsOf(buffer), begun: buffer.begun })
          buffer = next
        } else if (each === 'another file') {
          buffer.beginAgain()
          files.push('')
        } else if (typeof each === 'number') {
          const count = Math.min(each, buffer.next(50).length)
          files.push(files.pop() + buffer.next(50).toString('latin1', 0, count))
          buffer.written(count)
          if (buffer.mayResume) buffer.resume()
        } else {
          const before = buffer.dropped
          buffer.push(each, 'own')
          if (buffer.dropped === before) accepted += each.toString()
        }
        // The restarted line had been accepted before, so it may exceed the limit.
        if (buffer.size > 300 + 60) return false
      }
      const last = `${files.pop()}${buffer.rest().toString()}`
      const whole = files.map((file) => file.slice(0, file.lastIndexOf('\n') + 1))
      return whole.join('') + last === accepted
    }),
  )
  t.pass()
})

function countsOf({ dropped, unreported }: LineBuffer) {
  return { dropped, unreported }
}

// All processes share the flags of an open file: a log that made a shell's terminal nonblocking would break the next program there.
void t.test(
  'a pipe without a reader: lines wait, then are dropped, and are counted',
  { timeout: LIMIT },
  async (t) => {
    const path = join(folder(t), 'pipe')
    t.equal(spawnSync('mkfifo', [path]).status, 0)
    const reader = openSync(path, constants.O_RDWR | constants.O_NONBLOCK)
    const inherited = openSync(path, constants.O_WRONLY)
    const sink = new Sink(inherited)
    const said: [number, string][] = []
    sink.onResume = (lines, cause) => {
      said.push([lines, cause])
      sink.write(`${lines} lost\n`)
    }
    const line = `${'x'.repeat(1023)}\n`
    const total = 6 * 1024
    for (let index = 0; index < total; index++) sink.write(line)
    await sink.settled(0)
    const { dropped } = sink
    t.ok(
      dropped > 1024 && dropped < 2.2 * 1024,
      `${dropped} of ${total} KiB do not fit into the buffer and the pipe`,
    )
    t.notOk(isNonblocking(inherited), 'the flags are as they were')
    t.equal(await sink.settled(20), true, 'no thread is stuck')

    let text = ''
    await eventually(
      () => {
        text += readAll(reader)
        return sink.empty
      },
      () => `everything is read: ${text.length}`,
    )
    text += readAll(reader)
    const lines = text.split('\n').slice(0, -1)
    t.same(said, [[dropped, 'EAGAIN']])
    t.equal(lines.indexOf(`${dropped} lost`), total - dropped, 'where they are missing')
    t.equal(lines.length, total - dropped + 1)
    t.ok(lines.every((each) => each.length === 1023 || each === `${dropped} lost`))
    sink.close()
    for (const fd of [reader, inherited]) closeSync(fd)
  },
)

void t.test('a socket whose reader has stopped', { timeout: LIMIT }, async (t) => {
  const [ours, theirs] = socketpair('stream')
  const sink = new Sink(ours.fd)
  for (let index = 0; index < 2048; index++) sink.write(`${'x'.repeat(1023)}\n`)
  await sink.settled(0)
  t.notOk(isNonblocking(ours.fd))
  let size = 0
  await eventually(
    () => {
      // Data may still be on its way.
      if (poll(theirs.fd, POLLIN) !== 0) size += recv(theirs.fd, 65_536).length
      return sink.empty
    },
    () => `everything is read: ${size}`,
  )
  sink.write('last\n')
  theirs.close()
  sink.write('not read\n')
  await sink.settled(20)
  t.equal(sink.empty, false, 'EPIPE is tried again')
  sink.close()
  ours.close()
})

void t.test(
  'errors: a full device, a descriptor that is not for writing, one that is not open',
  async (t) => {
    const full = openSync('/dev/full', 'w')
    const reading = openSync('/dev/null', 'r')
    const closed = openSync('/dev/null', 'w')
    closeSync(closed)
    for (const fd of [full, reading, closed]) {
      const sink = new Sink(fd)
      for (let index = 0; index < 5000; index++) sink.write(`${'x'.repeat(1023)}\n`)
      t.equal(await sink.settled(10), true)
      t.equal(sink.dropped, 5000 - 4096)
      const next = new Sink(fd)
      next.restore(sink.state)
      t.match(next, { empty: false, dropped: 5000 - 4096 })
      for (const each of [sink, next]) each.close()
    }
    closeSync(full)
    closeSync(reading)
  },
)

void t.test(
  'a file: written by a thread, in order, and synchronously at exit',
  { timeout: LIMIT },
  async (t) => {
    const path = join(folder(t), 'log')
    const fd = openSync(path, 'w', 0o640)
    const sink = new Sink(fd)
    sink.write('one\n')
    await eventually(() => readFileSync(path, 'utf8') === 'one\n', 'it is written')
    // The bytes are in the file before the thread has reported them. Only a process that ends calls exit() in between.
    await sink.settled(1000)
    sink.write('two\n')
    sink.exit()
    t.equal(readFileSync(path, 'utf8'), 'one\ntwo\n')
    // Another process with the same open file, and so the same offset.
    writeSync(fd, 'three\n')
    sink.write('four\n')
    await sink.settled(1000)
    t.equal(readFileSync(path, 'utf8'), 'one\ntwo\nthree\nfour\n')
    rmSync(path)
    t.equal(sink.reopen(), path)
    sink.write('five\n')
    await sink.settled(1000)
    t.equal(readFileSync(path, 'utf8'), 'five\n')
    t.equal(fstatSync(fd).mode & 0o777, 0o640)
    sink.close()
    closeSync(fd)
  },
)

/** Maximum size in bytes of the files written by this process: simulates a disk that fills up in the middle of a line. */
function limitFiles(size: number | 'unlimited'): void {
  execFileSync('prlimit', ['--pid', `${process.pid}`, `--fsize=${size}:`])
}

const noPrlimit = spawnSync('prlimit', ['--version']).error !== undefined && 'prlimit is not installed'
void t.test('a file that is full', { timeout: LIMIT, skip: noPrlimit }, async (t) => {
  const path = join(folder(t), 'log')
  const sizeOf = (file: string) => statSync(file).size
  ignoreSignal(os.signals.SIGXFSZ)
  t.teardown(() => limitFiles('unlimited'))
  const fd = openSync(path, 'a')
  let sink = new Sink(fd)
  /** The file takes 6 bytes of an 11-byte line. */
  const fill = async (line: string): Promise<void> => {
    const full = sizeOf(path) + 6
    limitFiles(full)
    sink.write(`${line}\n`)
    await eventually(
      () => sizeOf(path) === full,
      () => `${sizeOf(path)} of ${full} bytes`,
    )
    await sink.settled(0, LIMIT)
  }
  const rotate = (name: string): void => {
    renameSync(path, `${path}.${name}`)
    t.equal(sink.reopen(), path)
    limitFiles('unlimited')
  }

  await t.test('the line is written again in the next one', async (t) => {
    await fill('first line')
    sink.write('after it\n')
    rotate('1')
    await sink.settled(LIMIT)
    t.equal(readFileSync(`${path}.1`, 'utf8'), 'first ')
    t.equal(readFileSync(path, 'utf8'), 'first line\nafter it\n')
  })

  await t.test('also by the next program in the process', async (t) => {
    await fill('other line')
    const next = new Sink(fd)
    next.restore(sink.state)
    sink.pause()
    sink.close()
    sink = next
    rotate('2')
    await sink.settled(LIMIT)
    t.equal(readFileSync(`${path}.2`, 'utf8'), 'first line\nafter it\nother ')
    t.equal(readFileSync(path, 'utf8'), 'other line\n')
  })

  await t.test('not if the same file is reopened', async (t) => {
    await fill('third line')
    sink.reopen()
    limitFiles('unlimited')
    await sink.settled(LIMIT)
    t.equal(readFileSync(path, 'utf8'), 'other line\nthird line\n')
  })

  // A write in a thread goes to the file that was open when it began.
  await t.test('a write in progress ends in the file in which it began', async (t) => {
    await fill('fourth one')
    const busy = await occupyThreads(folder(t))
    await eventually(() => sink.writing, 'the rest waits for a thread')
    rotate('3')
    sink.write('after it\n')
    await busy.end()
    await sink.settled(LIMIT)
    t.equal(readFileSync(`${path}.3`, 'utf8'), 'other line\nthird line\nfourth one\n')
    t.equal(readFileSync(path, 'utf8'), 'after it\n')
  })

  const before = openFiles()
  rotate('4')
  sink.write('last\n')
  await sink.settled(LIMIT)
  await eventually(() => openFiles() === before, 'the old file is closed')
  sink.close()
  closeSync(fd)
})

const openFiles = () => readdirSync('/proc/self/fd').length

/** Blocks all threads of libuv's pool in open(2) of a FIFO, until `end`. */
async function occupyThreads(folder: string): Promise<{ end(): Promise<void> }> {
  const path = join(folder, 'fifo')
  execFileSync('mkfifo', [path])
  const threads = Number(process.env['UV_THREADPOOL_SIZE'] ?? 4)
  const opening = Array.from({ length: threads }, () => open(path, 'r'))
  return {
    async end() {
      // Each open for reading returns as soon as there is a writer.
      const writer = openSync(path, 'r+')
      for (const file of await Promise.all(opening)) await file.close()
      closeSync(writer)
    },
  }
}

function readAll(fd: number): string {
  const buffer = Buffer.alloc(65_536)
  let text = ''
  for (;;) {
    try {
      text += buffer.toString('latin1', 0, readSync(fd, buffer))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return text
      throw error
    }
  }
}
