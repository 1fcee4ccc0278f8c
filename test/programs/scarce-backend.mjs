// A process that is out of descriptors while it registers. Each line on stdin is a number, or `all`: so many are left to it
// when it dials. When it has heard how that went it closes its backend, and has its descriptors again.
import { closeSync, openSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'
import { sharedPoller } from '@baton/native-sendmsg'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

/** Resolves with the first thing that a new backend says of its registration. */
async function register(spare) {
  let failed
  const heard = new Promise((resolve) => {
    failed = ({ error }) => resolve(error?.code ?? 'lost')
  })
  const backend = createBackend({ logger: { info() {}, warn: failed, error() {} } })
  backend.attach(http.createServer())
  const taken = spare === undefined ? [] : takeAllBut(spare)
  const outcome = await Promise.race([backend.ready().then(() => 'registered'), heard])
  for (const fd of taken) closeSync(fd)
  await backend.close()
  return outcome
}

function takeAllBut(spare) {
  const taken = []
  try {
    for (;;) taken.push(openSync('/dev/null'))
  } catch (error) {
    if (error.code !== 'EMFILE') throw error
  }
  for (const fd of taken.splice(0, spare)) closeSync(fd)
  return taken
}

// Its doorbell is two sockets, which stay for good; so they are there before anybody counts.
sharedPoller()
say('started')
const lines = createInterface({ input: process.stdin })
for await (const spare of lines) {
  say(`tried with ${spare}`, { outcome: await register(spare === 'all' ? undefined : Number(spare)) })
}
