import { lstatSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { AppRun, type AppRunParts, type RunState } from '../src/master/run/app-run.ts'
import { OperationLock } from '../src/master/operation-lock.ts'
import { restoreSettings } from '../src/master/active-config.ts'
import { hasChangedSince } from '../src/master/run/watch-folder.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { temporaryFolder } from '../../../test/support/process.ts'

const CONFIG = {
  listeners: [{ name: 'local', listen: 'unix:/nowhere/app.sock', service: 'app' }],
  services: { app: { command: ['node', 'server.js'] } },
}

/** `baton run --watch`, with a deploy that takes no time. */
function scene(state: Partial<RunState> = {}) {
  const operationLock = new OperationLock()
  const deploys: string[] = []
  const parts = {
    activeConfig: restoreSettings('/nowhere/baton.json', JSON.stringify(CONFIG)),
    operationLock,
    deployer: {
      async deploy() {
        deploys.push(operationLock.activity ?? 'deployed')
        return { success: operationLock.activity === undefined, log: [] }
      },
    },
    logger: { info() {}, error() {}, warn() {} },
  }
  const run = { folder: '/nowhere', watch: '/nowhere/src', claims: {}, ...state } as RunState
  const appRun = new AppRun(run, parts as unknown as AppRunParts)
  return { appRun, operationLock, deploys, settled: () => new Promise(setImmediate) }
}

// A reload that waited as well began in the same turn: the deploy was refused, and the change was forgotten.
void t.test('a change waits for the reload that has begun before its deploy', async (t) => {
  const { appRun, operationLock, deploys, settled } = scene()
  const waiting = operationLock.idle().then(() => operationLock.begin('reload'))
  appRun.redeploy()
  operationLock.end('start')
  await waiting
  await settled()
  t.same(deploys, [])
  t.equal(appRun.state?.watchedUntil, 0, 'the next program would deploy it')
  operationLock.end('reload')
  await settled()
  t.same(deploys, ['deployed'])
})

void t.test('the next program is told since when nothing was deployed', async (t) => {
  const { appRun, operationLock, settled } = scene({ watchedUntil: 1 })
  t.equal(appRun.state?.watchedUntil, 1, 'over several reloads')
  const before = Date.now()
  operationLock.end('start')
  appRun.redeploy()
  await settled()
  const since = appRun.state?.watchedUntil ?? 0
  t.ok(since > before - 1000 && since <= Date.now(), 'a deploy has begun then')
})

// The whole folder's time counted: after a reload the app was deployed once more because an editor had removed its own file when it was closed.
void t.test('what is not watched does not count after a reload either', async (t) => {
  const watch = temporaryFolder(t)
  const inside = join(watch, 'lib')
  mkdirSync(inside)
  const file = join(inside, 'a.js')
  writeFileSync(file, '')
  const { appRun } = scene({ watch })
  const { watchedNames } = appRun.state ?? {}
  const later = Date.now() + 60_000
  const has = () => hasChangedSince(watch, later, watchedNames)
  t.notOk(has())
  rmSync(file)
  t.ok(has(), 'a file is gone')
  writeFileSync(file, '')
  t.notOk(has(), 'it is back')
  writeFileSync(join(inside, 'b.js'), '')
  t.ok(has(), 'one is new')
  rmSync(join(inside, 'b.js'))
  const { ctimeMs: deployed } = lstatSync(file)
  let count = 0
  await eventually(() => {
    writeFileSync(join(inside, `.a.${(count += 1)}.swp`), '')
    return lstatSync(inside).ctimeMs > deployed
  }, 'the folder is newer')
  t.notOk(hasChangedSince(watch, deployed, watchedNames))
  t.ok(hasChangedSince(watch, deployed), 'without the names, as an older version leaves it')
  t.ok(hasChangedSince(watch, deployed - 1, watchedNames), 'a file is newer')
  t.equal(scene({ watch, watchedUntil: 1 }).appRun.state?.watchedNames, undefined)
})
