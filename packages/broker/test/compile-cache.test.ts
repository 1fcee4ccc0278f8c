import { chmodSync, mkdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { temporaryFolder } from '../../../test/support/process.ts'
import { cacheFolder } from '../src/compile-cache.ts'

const self = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
const other = { uid: self.uid + 1, gid: self.gid + 1 }

void t.test('where compiled code is kept', async (t) => {
  const home = temporaryFolder(t)
  chmodSync(home, 0o700)
  const folder = join(home, '.cache/baton')
  const at = (name: string) => join(home, name)
  mkdirSync(at('.cache'))
  // Whatever the umask is.
  chmodSync(at('.cache'), 0o700)
  t.equal(cacheFolder({ HOME: home }, self), folder)
  t.equal(statSync(folder).mode & 0o777, 0o700)
  t.equal(cacheFolder({ HOME: home }, self), folder, 'again')
  t.equal(cacheFolder({ HOME: home, XDG_CACHE_HOME: at('xdg') }, self), at('xdg/baton'), 'its parents, too')
  const given = { HOME: home, XDG_CACHE_HOME: at('xdg'), CACHE_DIRECTORY: `${at('given')}:${at('more')}` }
  t.equal(cacheFolder(given, self), at('given/baton'), 'of a service manager')

  t.equal(cacheFolder({}, self), undefined)
  t.equal(cacheFolder({ HOME: '' }, self), undefined, 'relative')
  t.equal(cacheFolder({ HOME: home }, other), undefined, "another user's home, as with sudo")
  t.equal(cacheFolder({ HOME: '/proc' }, self), undefined, 'nothing can be created')
  writeFileSync(at('file'), '')
  t.equal(cacheFolder({ XDG_CACHE_HOME: at('file') }, self), undefined, 'a file in the way')

  // Code in it is executed.
  chmodSync(folder, 0o770)
  t.equal(cacheFolder({ HOME: home }, self), undefined, 'writable by a group')
  chmodSync(folder, 0o700)
  chmodSync(at('.cache'), 0o777)
  t.equal(cacheFolder({ HOME: home }, self), undefined, 'in a folder where others may rename')
})
