import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBroker, type Status } from './support/broker.ts'
import { behind, program } from './support/commands.ts'
import { eventually } from './support/eventually.ts'
import { FalseBackend, hello, refusal } from './support/false-backend.ts'
import { LIMIT } from './support/limits.ts'
import { logs } from './support/operator.ts'
import { Program, root } from './support/process.ts'

// Which backends belong to a service, and which process owns an id. Neither is decided by what a process claims.

const OPEN = ['open', 'kept', 'second']

void t.test('one broker', { timeout: LIMIT }, async (whole) => {
  const broker = await startBroker(whole, {
    config: {
      listeners: ['web', ...OPEN].map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
      services: {
        web: { command: behind.shell(program()) },
        mixed: { command: program(), external: true },
        ...Object.fromEntries(OPEN.map((name) => [name, {}])),
      },
    },
  })
  const scene = (title: string, act: (t: Test) => Promise<void>) => whole.test(title, { timeout: LIMIT }, act)
  const { control } = broker
  const only = async (name: string) => onlyBackend(await broker.backends(1, name), name)
  const managed = await only('web')

  // The stranger would have joined the managed backends, and stayed when a deploy replaced them.
  await scene('a service with a command refuses a process that Baton did not start', async (t) => {
    for (const backend of [null, managed.id]) {
      const { code, retry, message } = await refusal(control, hello('web', { backend }))
      t.same({ code, retry }, { code: 'NotManaged', retry: false })
      t.match(message, `process ${process.pid} is not (or no longer) one of them`)
    }
    await logs(broker, 'registration refused')
    const refused = broker.program.messages().filter(({ msg }) => msg === 'registration refused')
    t.match(refused, [{ code: 'NotManaged', peerPid: process.pid, service: 'web' }], 'once')
    t.match(await only('web'), { id: managed.id, pid: managed.pid })
  })

  await scene('environment variables do not make a process managed', async (t) => {
    const env = { BATON_SOCKET: control, BATON_SERVICE: 'web', BATON_BACKEND_ID: managed.id }
    const stranger = new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
      env,
    })
    t.match(await stranger.message('not ready'), { reason: 'NotManaged' })
  })

  await scene('"external": true allows it', async (t) => {
    const { id } = await only('mixed')
    const other = await FalseBackend.responsive(t, control, hello('mixed', { backend: id }))
    t.not(other.welcome.backend, id, 'under its own id')
    await logs(broker, CLAIM)
    await broker.backends(2, 'mixed')
  })

  // After a worker's death, or a moment's absence of the backend itself, the first process to claim an id got it: an
  // operator who drained one backend by its id drained another.
  await scene('an id stays with the process that first registered under it', async (t) => {
    const first = await FalseBackend.responsive(t, control, hello('kept'))
    const { backend: id } = first.welcome
    first.die()
    await broker.backends(0, 'kept')
    const env = { BATON_SOCKET: control, BATON_SERVICE: 'kept', BATON_BACKEND_ID: id }
    const thief = new Program(t, process.execPath, [join(root, 'test/programs/listening-backend.mjs')], {
      env,
    })
    const ready = await thief.message('ready')
    t.not(ready['id'], id)
    // The answer to the backend may come before the broker's log has been read.
    const claim = () =>
      broker.program.messages().find(({ msg, peerPid }) => msg === CLAIM && peerPid === thief.pid)
    await eventually(() => claim() !== undefined, 'the claim in the log')
    t.match(claim(), { claimed: id, service: 'kept' })
    const again = await FalseBackend.responsive(t, control, hello('kept', { backend: id }))
    t.equal(again.welcome.backend, id, 'and that process finds it again')
  })

  await scene('the pid in HELLO is not trusted', async (t) => {
    const backend = await FalseBackend.responsive(t, control, hello('second', { pid: managed.pid }))
    t.match(await only('second'), { id: backend.welcome.backend, pid: process.pid })
  })
})

const CLAIM = 'the claimed backend id belongs to another process; assigning a new one'

function onlyBackend({ services }: Status, name: string) {
  const [backend] = services.find((service) => service.name === name)?.backends ?? []
  if (backend === undefined) throw new Error(`no backend of ${name}`)
  return backend
}
