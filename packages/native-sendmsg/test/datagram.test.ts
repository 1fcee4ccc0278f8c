import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, fstatSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { listenUnix, sendDatagram } from '../src/index.ts'
import { closing, codeOf, ended, nativeError, openDescriptors, temporaryFolder } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

interface Datagram {
  text: string
  pid: number
  own: boolean
  inodes?: number[]
}

/** A receiver in another program, bound to `name`; the returned function ends it and resolves with what it received. */
async function receiver(t: Test, name: string): Promise<() => Promise<Datagram[]>> {
  const program = fileURLToPath(new URL('fixtures/datagrams.py', import.meta.url))
  const child = spawn('python3', [program, name], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [said] = (await once(child.stdout, 'data')) as [Buffer]
  t.equal(said.toString(), 'bound\n')
  return async () => {
    const end = ended(child)
    child.stdin.end('now\n')
    return JSON.parse((await end).stdout) as Datagram[]
  }
}

void t.test('a datagram goes to a path and to an abstract name', { timeout: LIMIT }, async (t) => {
  const before = openDescriptors()
  for (const name of [join(temporaryFolder(t), 'notify'), `@baton-${process.pid} ü`]) {
    const received = await receiver(t, name)
    sendDatagram(name, Buffer.from('READY=1\nSTATUS=Zoë'))
    sendDatagram(name, Buffer.alloc(0))
    sendDatagram(name, Buffer.from('x'.repeat(64 * 1024)))
    sendDatagram(name, Buffer.from('STOPPING=1'))
    const from = { pid: process.pid, own: true }
    t.same(await received(), [
      { text: 'READY=1\nSTATUS=Zoë', ...from },
      { text: '', ...from },
      { text: 'x'.repeat(64 * 1024), ...from },
      { text: 'STOPPING=1', ...from },
    ])
  }
  t.equal(openDescriptors(), before)
})

void t.test('descriptors go with a datagram', { timeout: LIMIT }, async (t) => {
  const before = openDescriptors()
  const folder = temporaryFolder(t)
  const file = join(folder, 'file')
  writeFileSync(file, '')
  const fd = openSync(file, 'r')
  for (const name of [join(folder, 'notify'), `@baton-fds-${process.pid}`]) {
    const received = await receiver(t, name)
    sendDatagram(name, Buffer.from('FDSTORE=1'), [fd, fd])
    const fill = (): never => {
      for (;;) sendDatagram(name, Buffer.from('more'), [fd])
    }
    t.match(nativeError(fill), { code: 'EAGAIN', syscall: 'sendmsg', path: name })
    const { ino } = fstatSync(fd)
    const [first, second] = await received()
    t.same(first, { text: 'FDSTORE=1', pid: process.pid, own: true, inodes: [ino, ino] })
    t.same(second?.inodes, [ino])
  }
  t.match(
    nativeError(() => sendDatagram(join(folder, 'none'), Buffer.from('x'), [fd])),
    {
      code: 'ENOENT',
      syscall: 'connect',
      path: join(folder, 'none'),
    },
  )
  closeSync(fd)
  t.equal(openDescriptors(), before)
})

void t.test('a receiver that does not read does not block the sender', { timeout: LIMIT }, async (t) => {
  const name = join(temporaryFolder(t), 'notify')
  const received = await receiver(t, name)
  let sent = 0
  const fill = (): never => {
    for (;;) {
      sendDatagram(name, Buffer.from(`number ${sent}`))
      sent++
    }
  }
  t.match(nativeError(fill), { code: 'EAGAIN', syscall: 'sendto', path: name })
  t.ok(sent > 0)
  t.same(
    (await received()).map(({ text }) => text),
    Array.from({ length: sent }, (_, index) => `number ${index}`),
  )
})

void t.test('a datagram without a receiver is an error with the path', { timeout: LIMIT }, async (t) => {
  const folder = temporaryFolder(t)
  const before = openDescriptors()
  const path = join(folder, 'notify')
  const to = (target: string) => (): void => sendDatagram(target, Buffer.from('READY=1'))
  t.match(nativeError(to(path)), { code: 'ENOENT', syscall: 'sendto', path })
  const abstract = `@baton-missing-${process.pid}`
  t.match(nativeError(to(abstract)), { code: 'ECONNREFUSED', path: abstract })
  const file = join(folder, 'file')
  writeFileSync(file, '')
  t.equal(codeOf(to(file)), 'ECONNREFUSED')
  const stream = join(folder, 'stream')
  closing(t, listenUnix({ path: stream }))
  t.equal(codeOf(to(stream)), 'EPROTOTYPE')
  t.equal(codeOf(to('')), 'EINVAL')
  t.equal(codeOf(to(`/${'x'.repeat(108)}`)), 'ENAMETOOLONG')
  t.match(
    nativeError(() => sendDatagram(path, Buffer.alloc(64 * 1024 + 1))),
    { code: 'EMSGSIZE', syscall: 'sendto', path },
  )
  t.equal(openDescriptors(), before + 1, 'the stream socket')
})
