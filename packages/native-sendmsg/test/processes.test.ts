import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { isCloseOnExec, openProcess, poll, Poller, POLLIN, reap, sameOpenFile } from '../src/index.ts'
import { closing, codeOf, ended, nativeError, readable, startFixture } from './support.ts'
import { LIMIT } from '../../../test/support/limits.ts'

void t.test(
  'a process that replaced itself reaps the children that it had started before',
  { timeout: LIMIT },
  async (t) => {
    const { stdout, stderr, code } = await ended(startFixture('children.mjs', []))
    t.same({ stderr, code }, { stderr: '', code: 0 })
    const result = JSON.parse(stdout) as { ends: unknown; again: Record<string, unknown> }
    t.match(result, { alive: true, closeOnExec: true })
    t.same(result.ends, {
      exits: { code: 7, signal: null },
      terminated: { code: null, signal: 'SIGTERM' },
      aborted: { code: null, signal: 'SIGABRT' },
      realTime: { code: null, signal: null },
      killed: { code: null, signal: 'SIGKILL' },
    })
    t.equal(Object.keys(result.again).length, 5)
    for (const error of Object.values(result.again))
      t.same(error, { code: 'ECHILD', syscall: 'waitpid', named: true })
  },
)

void t.test('a process is readable once it has ended', { timeout: LIMIT }, async (t) => {
  const child = spawn('/bin/cat', { stdio: ['pipe', 'ignore', 'ignore'] })
  const handle = openProcess(child.pid ?? 0)
  closing(t, handle)
  t.ok(isCloseOnExec(handle.fd))
  const poller = new Poller()
  t.teardown(() => poller.close())
  const exit = once(child, 'exit')
  const told = readable(poller, handle.fd)
  t.equal(poll(handle.fd, POLLIN), 0)
  child.stdin.end()
  await Promise.all([told, exit])
  t.equal(poll(handle.fd, POLLIN) & POLLIN, POLLIN, 'reaped, and still')
})

void t.test('one process only: never a group, never any child', async (t) => {
  // 2 ** 32 - 1 has the bits of -1.
  for (const pid of [0, -1, -process.pid, 1.5, Number.NaN, 2 ** 31, 2 ** 32 - 1]) {
    t.equal(
      codeOf(() => reap(pid)),
      'BATON_ERR_INVALID_ARGUMENT',
    )
    t.equal(
      codeOf(() => openProcess(pid)),
      'BATON_ERR_INVALID_ARGUMENT',
    )
  }
  t.match(
    nativeError(() => reap(process.pid)),
    { code: 'ECHILD', syscall: 'waitpid', pid: process.pid },
  )
  const { pid } = spawnSync('/bin/true')
  t.match(
    nativeError(() => openProcess(pid)),
    { code: 'ESRCH', syscall: 'pidfd_open', pid },
  )
})

void t.test('whether two descriptors are one open file, or the same file opened twice', async (t) => {
  const [one, other] = [openSync('/dev/null', 'r'), openSync('/dev/null', 'r')]
  t.teardown(() => {
    closeSync(one)
    closeSync(other)
  })
  const child = spawn('/bin/cat', { stdio: ['pipe', one, 'ignore'] })
  const exit = once(child, 'exit')
  const pid = child.pid ?? 0
  // Needs CONFIG_KCMP and no seccomp profile against it; otherwise the kernel gives no answer.
  if (sameOpenFile([process.pid, one], [process.pid, one]) === undefined)
    t.comment('kcmp(2) is not available')
  else {
    t.equal(sameOpenFile([pid, 1], [process.pid, one]), true, 'inherited')
    t.equal(sameOpenFile([pid, 1], [process.pid, other]), false, 'opened again')
    t.equal(sameOpenFile([pid, 99], [process.pid, one]), undefined, 'not open')
  }
  child.stdin?.end()
  await exit
  t.equal(
    codeOf(() => sameOpenFile([0, 1], [process.pid, 1])),
    'BATON_ERR_INVALID_ARGUMENT',
  )
})
