import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { listenUnix } from '@baton/native-sendmsg'
import t from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { Program } from '../../../test/support/process.ts'
import { removeRelaySocket, sweepRelaySockets } from '../src/worker/relay/relay-sockets.ts'

// The endpoints of backends beside the control socket: who creates, finds and removes their files.

void t.test(
  'only the backend’s own socket is removed when a backend leaves an endpoint behind',
  async (t) => {
    // The broker removed whatever file next to the control socket a backend had named, including another user's endpoint; a folder
    // or a name with a NUL was an error that ended the worker, and a folder also ended every later worker.
    const own = process.getuid?.() ?? -1
    const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const abandoned = (name: string) => {
      listenUnix({ path: join(folder, name) }).close()
      return join(folder, name)
    }
    const file = join(folder, 'relay-file')
    writeFileSync(file, 'precious')
    const subfolder = join(folder, 'relay-folder')
    mkdirSync(subfolder)
    const kept = [file, subfolder, abandoned('relay-of-another'), abandoned('control.sock')]

    removeRelaySocket(folder, { path: abandoned('relay-own'), uid: own })
    removeRelaySocket(folder, { path: join(folder, 'relay-of-another'), uid: own + 1 })
    for (const name of ['relay-file', 'relay-folder', 'control.sock', 'relay-\0', 'relay-gone'])
      removeRelaySocket(folder, { path: join(folder, name), uid: own })
    removeRelaySocket(join(folder, 'elsewhere'), { path: join(folder, 'relay-of-another'), uid: own })
    const names = () => readdirSync(folder).map((name) => join(folder, name))
    t.same(names().toSorted(), kept.toSorted())

    const served = listenUnix({ path: join(folder, 'relay-served') })
    t.teardown(() => served.close())
    const starting = abandoned('.relay-starting')
    const yesterday = new Date(Date.now() - 86_400_000)
    for (const name of ['.relay-killed', '.elsewhere']) utimesSync(abandoned(name), yesterday, yesterday)
    sweepRelaySockets(folder)
    const control = join(folder, 'control.sock')
    const swept = [
      file,
      subfolder,
      control,
      join(folder, 'relay-served'),
      starting,
      join(folder, '.elsewhere'),
    ]
    t.same(names().toSorted(), swept.toSorted(), 'at a start only sockets without a listener')
  },
)

void t.test('an endpoint is created while a broker process starts', { timeout: LIMIT }, async (t) => {
  // At each reload the new worker removed every endpoint at which no process listened, while the old one asked the backends to move: a
  // backend that had bound its socket and did not listen yet lost it. It then used a folder of its own elsewhere, which it left behind
  // when it was killed, or could not be reached until it checked its socket a second later.
  for (const [whose, mode] of [
    ['own', 0o600],
    ['shared', 0o666],
  ] as const) {
    const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const program = new Program(t, process.execPath, [
      join(import.meta.dirname, 'programs/swept-endpoint.mjs'),
      folder,
      whose,
    ])
    const { code } = await program.exited
    t.equal(code, 0, program.lines.join('\n'))
    // Swept between bind and listen, and it is beside control nevertheless.
    t.same(
      program.lines.map((line) => JSON.parse(line) as unknown),
      [{ isSwept: true, isBeside: true, mode }],
    )
    t.same(readdirSync(folder), [], 'and nothing is left')
  }
})
