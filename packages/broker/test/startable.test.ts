import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { temporaryFolder } from '../../../test/support/process.ts'
import { unstartable } from '../src/supervise/startable.ts'
import { countStart, hasFailedTooOften, NO_STARTS, type StartEvent } from '../src/master/run/start-history.ts'

void t.test('commands that exec would refuse, with the exit code of a shell', async (t) => {
  const cwd = temporaryFolder(t)
  const file = (name: string, content: string | Buffer, mode = 0o755) => {
    writeFileSync(join(cwd, name), content)
    chmodSync(join(cwd, name), mode)
  }
  mkdirSync(join(cwd, 'bin'))
  mkdirSync(join(cwd, 'bin/folder'))
  file('plain.js', '', 0o644)
  file('app.js', '#!/usr/bin/env node\n')
  file('script', '#!/bin/sh\n')
  file('without', 'echo no first line of its own\n')
  file('lost', '#!/nowhere/sh -e\n')
  file('denied', `#!${join(cwd, 'plain.js')}\n`)
  file('env', '#!/usr/bin/env no-such-interpreter\n')
  file('windows', '#!/bin/sh\r\n')
  file('garbage', Buffer.from([1, 2, 0, 3]))
  file('bin/shadowed', '', 0o644)
  symlinkSync('nowhere', join(cwd, 'dangling'))
  symlinkSync('loop', join(cwd, 'loop'))

  const path = `${join(cwd, 'bin')}:/usr/bin:/bin`
  for (const program of ['sh', '/bin/sh', './script', './without', './app.js', process.execPath])
    t.equal(unstartable([program], cwd, path), undefined, program)
  const refused: [program: string, code: number, says: RegExp][] = [
    ['no-such-program', 127, /: it is not in PATH \(ENOENT\)$/],
    ['', 127, /ENOENT/],
    ['node server.js', 127, /pass its arguments as separate words/],
    ['plain.js', 127, /write \.\/plain\.js or node plain\.js/],
    ['./nothing', 127, /there is no such file \(ENOENT\)$/],
    ['./dangling', 127, /ENOENT/],
    ['./plain.js/below', 126, /ENOTDIR/],
    ['./loop', 126, /ELOOP/],
    ['./plain.js', 126, /write node \.\/plain\.js, or chmod \+x it \(EACCES\)$/],
    ['shadowed', 126, /bin\/shadowed: it is not executable/],
    ['folder', 126, /it is a folder \(EACCES\)$/],
    ['/dev/null', 126, /not a regular file/],
    ['./lost', 127, /its interpreter \/nowhere\/sh: there is no such file \(ENOENT\)$/],
    ['./denied', 126, /its interpreter .*plain\.js: it is not executable/],
    ['./env', 127, /its interpreter no-such-interpreter: it is not in PATH/],
    ['./windows', 127, /CR LF/],
    ['./garbage', 126, /neither a program nor a script \(ENOEXEC\)$/],
  ]
  for (const [program, code, says] of refused)
    t.match(unstartable([program], cwd, path), { code, reason: says }, JSON.stringify(program))
  t.match(unstartable(['sh'], join(cwd, 'gone'), path), { code: 127, reason: /working folder .*\(ENOENT\)$/ })
  t.match(unstartable(['sh'], join(cwd, 'script'), path), { code: 126, reason: /is not a folder/ })
})

void t.test('the app is given up when each instance has failed five times in a row', async (t) => {
  const after = (...events: StartEvent[]) => events.reduce(countStart, NO_STARTS)
  const failed = (instance: string, times: number): StartEvent[] =>
    Array.from({ length: times }, () => ({ kind: 'failed', instance }))
  const both = ['app.1', 'app.2']
  t.notOk(hasFailedTooOften(after(...failed('app.1', 4)), ['app.1']))
  t.ok(hasFailedTooOften(after(...failed('app.1', 5)), ['app.1']))
  t.notOk(hasFailedTooOften(after(...failed('app.1', 50)), both), 'the other one may serve')
  t.ok(hasFailedTooOften(after(...failed('app.1', 7), ...failed('app.2', 5)), both))
  const served = after(
    ...failed('app.1', 4),
    ...failed('app.2', 5),
    { kind: 'served' },
    ...failed('app.1', 4),
  )
  t.match(served, { served: true, failed: { 'app.1': 4 } })
  t.notOk(hasFailedTooOften(served, ['app.1']))
  t.notOk(hasFailedTooOften(NO_STARTS, []))
})
