import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { socketpair } from '@baton/native-sendmsg'
import t, { type Test } from 'tap'
import { LIMIT } from '../../../test/support/limits.ts'
import { descriptorOf, openSocket } from '../src/open-socket.ts'

// The number of the descriptor below a socket: once it is closed, the kernel gives the same number to something else.

function open(t: Test) {
  const [one, other] = socketpair('stream')
  t.teardown(() => other.close())
  const fd = one.release()
  const socket = openSocket(fd, false)
  t.teardown(() => socket.destroy())
  return { fd, socket }
}

void t.test('it is known while the socket is open, and not after', { timeout: LIMIT }, async (t) => {
  const { fd, socket } = open(t)
  t.equal(descriptorOf(socket), fd)
  socket.destroy()
  t.equal(descriptorOf(socket), undefined, 'at once')
})

void t.test('nor when the app has sent the socket to a child process', { timeout: LIMIT }, async (t) => {
  const { socket } = open(t)
  const child = spawn(process.execPath, ['-e', "process.once('message', () => process.exit())"], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  child.send('yours', socket)
  t.equal(socket.destroyed, false)
  t.equal(descriptorOf(socket), undefined)
  await once(child, 'exit')
})
