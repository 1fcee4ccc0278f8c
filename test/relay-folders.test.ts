import { chownSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { listenUnix, lockFolder, type OwnedFd } from '@baton/native-sendmsg'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { LIMIT } from './support/limits.ts'
import { NOBODY } from './support/other-user.ts'
import { temporaryFolder } from './support/process.ts'
import { servedBy } from './support/visit.ts'

// Backends whose relay endpoint cannot be beside the control socket, here because the path would be too long for a socket, keep it in
// a folder of their own. Nothing removes that of a killed one but the next of its kind.

const folder = temporaryFolder(t)
const runtimeDir = join(folder, 'd'.repeat(90 - folder.length))
const broker = await startBroker(t, {
  config: { runtimeDir, services: { web: { handoff: 'off', holdTimeout: '30m' } } },
})
const temporary = temporaryFolder(t)
const env = { TMPDIR: temporary }
const start = () => startBackend(t, broker, 'http-backend.mjs', { env })
const folders = () => readdirSync(temporary).toSorted()

void t.test('the folder of a killed backend is removed by the next one', { timeout: LIMIT }, async (t) => {
  // Each backend that was killed left one behind.
  const living = await start()
  const [ofLiving = ''] = folders()
  const killed = await start()
  const [ofKilled = ''] = folders().filter((name) => name !== ofLiving)
  t.match([ofLiving, ofKilled], [/^baton-relay-/, /^baton-relay-/])
  killed.kill('SIGKILL')
  await killed.exited
  t.same(readdirSync(join(temporary, ofKilled)), ['relay.sock'], 'it could not be removed by its owner')

  const next = await start()
  const [ofNext = ''] = folders().filter((name) => name !== ofLiving)
  t.not(ofNext, ofKilled)
  t.same(folders(), [ofLiving, ofNext].toSorted(), 'that of a living one stays')
  next.kill('SIGTERM')
  await next.exited
  await broker.backends(1)
  t.equal(await servedBy(t, broker), living.pid, 'and is in use')
  living.kill('SIGTERM')
  await living.exited
  t.same(folders(), [])
})

void t.test('what is not a folder of a dead process of this user stays', { timeout: LIMIT }, async (t) => {
  const at = (name: string) => join(temporary, `baton-relay-${name}`)
  const make = (name: string): string => {
    mkdirSync(at(name), { mode: 0o700 })
    return at(name)
  }
  const locks: OwnedFd[] = []
  t.teardown(() => locks.forEach((lock) => lock.close()))
  const lock = (path: string) => locks.push(lockFolder(path) as OwnedFd)
  const bind = (path: string) => listenUnix({ path }).close()

  // Abandoned by processes that were killed at various moments of their start.
  make('empty')
  bind(join(make('bound'), '.relay'))
  bind(join(make('served'), 'relay.sock'))

  const stay = ['starting', 'unready', 'precious', 'file', 'link', 'elsewhere']
  // Living processes hold the lock before there is a socket, and while it refuses connections.
  lock(make('starting'))
  bind(join(make('unready'), '.relay'))
  lock(at('unready'))
  writeFileSync(join(make('precious'), 'file'), 'precious')
  writeFileSync(at('file'), 'precious')
  const linked = temporaryFolder(t)
  bind(join(linked, 'relay.sock'))
  symlinkSync(linked, at('link'))
  mkdirSync(join(linked, 'folder'))
  symlinkSync(join(linked, 'folder'), at('elsewhere'))
  if (process.getuid?.() === 0) {
    stay.push('foreign')
    bind(join(make('foreign'), 'relay.sock'))
    chownSync(at('foreign'), NOBODY, NOBODY)
  }

  const backend = await start()
  const [own = '', ...others] = folders().filter((name) => !stay.includes(name.slice('baton-relay-'.length)))
  t.match(own, /^baton-relay-/)
  t.same(others, [], 'the abandoned ones are gone')
  backend.kill('SIGTERM')
  await backend.exited
  t.same(folders(), stay.map((name) => `baton-relay-${name}`).toSorted())
  t.same(readdirSync(at('precious')), ['file'])
  t.same(readdirSync(at('unready')), ['.relay'])
  t.same(readdirSync(linked).toSorted(), ['folder', 'relay.sock'])
  if (stay.includes('foreign')) t.same(readdirSync(at('foreign')), ['relay.sock'])
})
