import t from 'tap'
import { AppRun, type AppRunParts, type RunState } from '../src/master/run/app-run.ts'
import { OperationLock } from '../src/master/operation-lock.ts'
import { restoreSettings } from '../src/master/active-config.ts'

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
