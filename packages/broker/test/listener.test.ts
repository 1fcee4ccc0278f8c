import { once } from 'node:events'
import { connect } from 'node:net'
import t from 'tap'
import { DescriptorReserve } from '../src/listen/descriptor-reserve.ts'
import { Program, root } from '../../../test/support/process.ts'
import { LIMIT } from '../../../test/support/limits.ts'

const DESCRIPTORS = 640
const CROWD = 70

void t.test('listeners that are called in one round share one reserve', { timeout: LIMIT }, async (t) => {
  // Each looked at the number of its own newest client and at nobody else's: two listeners with full queues took what was kept
  // for registrations, four took everything.
  const script = 'ulimit -n "$0"; exec "$@"'
  const program = ['packages/broker/test/programs/crowded.mjs', `${DESCRIPTORS}`, '4']
  const crowded = new Program(t, 'sh', ['-c', script, `${DESCRIPTORS}`, process.execPath, ...program], {
    cwd: root,
  })
  const addresses = JSON.parse(
    await crowded.line((line) => line.startsWith('['), 'its addresses'),
  ) as string[]
  for (const address of addresses) {
    const port = Number(address.split(':')[1])
    for (let count = 0; count < CROWD; count++) {
      const socket = connect(port, '127.0.0.1')
      t.teardown(() => socket.destroy())
      // The program is gone before they are.
      socket.on('error', () => undefined)
      await once(socket, 'connect')
    }
  }
  crowded.child.stdin?.write('go\n')
  const said = JSON.parse(await crowded.line((line) => line.startsWith('{'), 'what became of them')) as {
    accepted: number
    left: number
    logs: string[]
  }
  t.ok(said.accepted > 0, 'the first was let in')
  t.ok(said.left >= 64, `${said.left} descriptors are left`)
  t.same(
    new Set(said.logs),
    new Set(['cannot accept; clients wait in the kernel: descriptor reserve reached']),
    JSON.stringify(said),
  )
})

void t.test('a reserve is suspected from the first descriptor in it to a look that finds room', async (t) => {
  const reserve = new DescriptorReserve(10_000)
  t.notOk(reserve.isSuspected)
  t.notOk(reserve.isReached(5000))
  t.notOk(reserve.isSuspected)
  t.ok(reserve.isReached(9999))
  t.notOk(reserve.isReached(5000))
  t.ok(reserve.isSuspected, 'one low number says nothing: somebody has just left')
  t.notOk(reserve.isReachedNow(0), 'the next number of this process is a low one')
  t.notOk(reserve.isSuspected)
})
