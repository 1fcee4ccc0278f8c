// A process that runs out of descriptors while it registers. Each line on stdin is the number of descriptors left to it when
// it dials, or `all`. After the result it closes its backend and frees its descriptors.
import { closeSync, openSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'
import { sharedPoller } from '@baton/native-sendmsg'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

/** Resolves with the first event of a new backend's registration. */
async function register(spare) {
  let failed
  const failure = new Promise((resolve) => {
    failed = ({ error }) => resolve(error?.code ?? 'lost')
  })
  const backend = createBackend({ logger: { info() {}, warn: failed, error() {} } })
  backend.attach(http.createServer())
  const taken = spare === undefined ? [] : takeAllBut(spare)
  const outcome = await Promise.race([backend.ready().then(() => 'registered'), failure])
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

// Its doorbell is two permanent sockets; open them before the descriptors are counted.
sharedPoller()
say('started')
const lines = createInterface({ input: process.stdin })
for await (const spare of lines) {
  say(`tried with ${spare}`, { outcome: await register(spare === 'all' ? undefined : Number(spare)) })
}
