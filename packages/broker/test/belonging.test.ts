import t from 'tap'
import type { HelloFrame } from '@baton/backend-sdk/protocol'
import { parseConfig } from '../src/config/config.ts'
import { admit } from '../src/worker/registry/admission.ts'
import { Bindings } from '../src/worker/registry/names.ts'
import { ManagedProcesses, type ProcessTable } from '../src/worker/registry/managed-processes.ts'
import { factsOf, isSameProcess, processOf } from '../src/supervise/proc.ts'

/** pid -> parent and session. */
function table(
  processes: Record<number, [parent: number, session: number]>,
  hidden: number[] = [],
): ProcessTable {
  return {
    stat(pid) {
      const found = hidden.includes(pid) ? undefined : processes[pid]
      return found && { parent: found[0], session: found[1], started: '1' }
    },
    exists: (pid) => pid in processes,
  }
}

const web1 = { id: 'WEB1', service: 'web', pid: 100, leaving: false }
const web2 = { id: 'WEB2', service: 'web', pid: 200, leaving: true }

void t.test('a process belongs to the managed process that it is, or descends from', async (t) => {
  const managed = new ManagedProcesses(
    table(
      {
        10: [1, 10],
        100: [10, 100],
        101: [100, 100],
        102: [101, 100],
        103: [1, 100],
        104: [102, 104],
        105: [104, 104],
        106: [1, 106],
        200: [10, 200],
        300: [10, 10],
        400: [1, 400],
      },
      [400],
    ),
  )
  managed.update([web1, web2])
  const owner = (pid: number, claimed: string | null = null) => managed.ownerOf(pid, claimed)?.id
  t.equal(owner(100), 'WEB1', 'itself')
  t.equal(owner(102), 'WEB1', 'below a shell')
  t.equal(owner(103), 'WEB1', 'the shell has ended: the session is left')
  t.equal(owner(105), 'WEB1', 'its own session: only the parents remain')
  t.equal(owner(106, 'WEB1'), undefined, 'neither')
  t.equal(owner(200), 'WEB2')
  t.equal(owner(300, 'WEB1'), undefined, 'a child of the master that is no backend')
  t.equal(owner(0, 'WEB1'), undefined, 'another pid namespace')
  t.equal(owner(999, 'WEB1'), undefined, 'it has ended')
  t.equal(owner(400), undefined)
  t.equal(owner(400, 'WEB1'), 'WEB1', 'hidden by /proc: its own claim')
  t.equal(owner(400, 'WEB9'), undefined)
  let told = 0
  const forget = managed.onUpdate(() => (told += 1))
  managed.update([web2])
  t.equal(owner(102), undefined)
  forget()
  managed.update([])
  t.equal(told, 1)
})

void t.test('an id belongs to one process, until it is given to another one', async (t) => {
  const bindings = new Bindings()
  const mine = processOf({ pid: process.pid, uid: 1000, gid: 1000 })
  t.equal(mine.started, factsOf(process.pid)?.startedAt)
  bindings.bind('ID', mine)
  t.ok(bindings.allows('OTHER', { ...mine, pid: 1 }))
  t.ok(bindings.allows('ID', { ...mine }))
  for (const other of [{ pid: mine.pid + 1 }, { uid: 0 }, { started: '1' }, { pid: 0 }])
    t.notOk(bindings.allows('ID', { ...mine, ...other }), JSON.stringify(other))
  t.notOk(bindings.isFree('ID'))
  t.ok(isSameProcess({ ...mine, started: null }, mine), 'when /proc did not show it')

  const outside = processOf({ pid: 0, uid: 1000, gid: 1000 })
  bindings.bind('OUTSIDE', outside)
  t.ok(bindings.allows('OUTSIDE', outside), 'in another pid namespace: by its user')
  t.notOk(bindings.allows('OUTSIDE', { ...outside, uid: 1001 }))
  t.notOk(bindings.isFree('OUTSIDE'))

  bindings.bind('GONE', { pid: 0x7fff_fff0, uid: 1000, started: '1' })
  t.ok(bindings.isFree('GONE'))
  for (let each = 0; each < 4096; each++) bindings.bind(String(each), mine)
  t.ok(bindings.allows('ID', { ...mine, uid: 0 }), 'the oldest is forgotten')
  t.notOk(bindings.allows('0', { ...mine, uid: 0 }))
})

void t.test('who may register for a service with a command', async (t) => {
  const config = (service: object) =>
    parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: service },
      security: { allowUids: [7] },
    })
  const reason = (service: object, managed: boolean) => {
    const parsed = config(service)
    const hello = { service: 'web', protocol: 1, secret: null } as HelloFrame
    const credentials = { pid: 42, uid: 7, gid: 7 }
    const services = new Map([...parsed.services].map(([name, each]) => [name, { config: each }]))
    return admit({ hello, credentials, managed, socketProblem: undefined }, parsed, services)?.code
  }
  t.equal(reason({}, false), undefined)
  t.equal(reason({ command: ['app'] }, true), undefined)
  t.equal(reason({ command: ['app'] }, false), 'NotManaged')
  t.equal(reason({ command: ['app'], external: true }, false), undefined)
})

void t.test('a refusal lists the services that there are', async (t) => {
  const config = parseConfig({
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: {} },
    security: { allowUids: [7] },
  })
  const refusal = (names: readonly string[]) => {
    const hello = { service: 'wbe', protocol: 1, secret: null } as HelloFrame
    const request = {
      hello,
      credentials: { pid: 42, uid: 7, gid: 7 },
      managed: false,
      socketProblem: undefined,
    }
    const services = new Map(names.map((name) => [name, { config: { command: null, external: false } }]))
    return admit(request, config, services)
  }
  t.match(refusal(['web', 'api']), {
    code: 'UnknownService',
    message: 'there is no service "wbe"; there are: web, api',
  })
  t.match(refusal([]), { message: 'there is no service "wbe"; no service is configured' })
})
