import { socketpair } from '@baton/native-sendmsg'
import t from 'tap'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { ControlConnection } from '../src/control/control-connection.ts'
import { openControlStream } from '../src/control/control-stream.ts'
import { FrameOrder } from '../src/protocol/index.ts'

void t.test(
  'a write that never reaches the kernel is reported with an error',
  { timeout: LIMIT },
  async (t) => {
    // Node calls back without an error when the socket is destroyed while libuv holds the write. A connection that a backend was handing back
    // then had two owners: the broker, for which TAKEN was in the kernel, and the backend, which never received it.
    const [near, far] = socketpair('stream')
    t.teardown(() => far.close())
    const control = new ControlConnection(openControlStream(near), new FrameOrder('broker'), {
      frames: () => {},
      ended: () => control.close(),
    })
    const results: (Error | undefined)[] = []
    while (control.write({ type: 'drained' }, (error) => results.push(error)));
    for (let more = 0; more < 3; more++) control.write({ type: 'drained' }, (error) => results.push(error))
    await new Promise(setImmediate)
    t.same(results, [], 'the peer reads nothing')
    control.cutOff()
    await eventually(() => results.length === 4, 'all four are answered')
    t.ok(results.every((error) => error instanceof Error))
    control.write({ type: 'drained' }, (error) => results.push(error))
    await eventually(() => results.length === 5, 'and one after the end')
    t.ok(results[4] instanceof Error)
  },
)
