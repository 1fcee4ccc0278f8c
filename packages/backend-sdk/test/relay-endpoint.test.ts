import fs, { existsSync, readdirSync, rmdirSync, statSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { lockFolder, type OwnedFd } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { openDescriptors } from '../../../test/support/proc.ts'
import { temporaryFolder } from '../../../test/support/process.ts'
import { RelayFolder } from '../src/relay/relay-folder.ts'

/** Another process acts during these calls, until the end of the test. */
function replace(t: Test, calls: Record<string, unknown>): void {
  const real = Object.fromEntries(Object.keys(calls).map((name) => [name, Reflect.get(fs, name) as unknown]))
  t.teardown(() => {
    Object.assign(fs, real)
    syncBuiltinESMExports()
  })
  Object.assign(fs, calls)
  syncBuiltinESMExports()
}

void t.test('a new folder that another process takes for an abandoned one', async (t) => {
  // Both start at the same time: the other one reads the temporary folder before this one has locked its own.
  const temporary = temporaryFolder(t)
  const before = openDescriptors(process.pid)
  const { mkdtempSync } = fs
  const made: string[] = []
  const locks: OwnedFd[] = []
  replace(t, {
    mkdtempSync: (prefix: string) => {
      const path = mkdtempSync(prefix)
      made.push(path)
      if (made.length === 1) rmdirSync(path)
      if (made.length === 2) locks.push(lockFolder(path) as OwnedFd)
      return path
    },
  })

  const folder = await RelayFolder.create(temporary, false)
  t.equal(made.length, 3, 'one was removed, one was about to be')
  t.equal(folder.path, made[2])
  for (const lock of locks) lock.close()
  t.equal(lockFolder(folder.path), undefined, 'locked')
  folder.remove()
  folder.remove()
  t.same(readdirSync(temporary), [made[1]?.slice(temporary.length + 1)])
  t.equal(openDescriptors(process.pid), before)
})

void t.test('a folder that was removed is created again, locked, with its mode', async (t) => {
  const temporary = temporaryFolder(t)
  const before = openDescriptors(process.pid)
  const umask = process.umask(0o077)
  t.teardown(() => process.umask(umask))
  for (const [shared, mode] of [
    [false, 0o700],
    [true, 0o711],
  ] as const) {
    const folder = await RelayFolder.create(temporary, shared)
    for (const what of ['at first', 'and again']) {
      t.equal(statSync(folder.path).mode & 0o777, mode, what)
      t.equal(lockFolder(folder.path), undefined, what)
      rmdirSync(folder.path)
      folder.restore()
      folder.restore()
    }
    folder.remove()
    t.notOk(existsSync(folder.path))
  }
  t.equal(openDescriptors(process.pid), before)

  await t.test('while another process removes it: later', async (t) => {
    const folder = await RelayFolder.create(temporary, false)
    const { mkdirSync } = fs
    const locks: OwnedFd[] = []
    replace(t, {
      mkdirSync: (path: string) => {
        mkdirSync(path)
        locks.push(lockFolder(path) as OwnedFd)
      },
    })
    rmdirSync(folder.path)
    t.throws(() => folder.restore(), { code: 'EBUSY' })
    for (const lock of locks) lock.close()
    folder.restore()
    t.equal(lockFolder(folder.path), undefined)
    folder.remove()
    t.same(readdirSync(temporary), [])
  })
})
