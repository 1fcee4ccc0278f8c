import { Socket } from 'node:net'
import t from 'tap'
import { createBackend } from '../src/index.ts'

void t.test('what was not adopted has no metadata', async (t) => {
  const backend = createBackend({ socket: '/nowhere/control.sock', service: 'web' })
  t.teardown(() => backend.close())
  t.equal(backend.connection(new Socket()), undefined)
  // `response.socket`, in a program without types that looks after the response has ended: it was a TypeError.
  const none: unknown = null
  t.equal(backend.connection(none as Socket), undefined)
  t.equal(backend.connection(undefined as unknown as Socket), undefined)
})
