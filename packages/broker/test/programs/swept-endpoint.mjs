// Creates a relay endpoint beside argv[2]/control.sock, for a broker of another user if argv[3] is `shared`. Before each call to the file
// system that this takes, a broker process starts: it removes the endpoints of dead backends. Prints what has become of the endpoint.
import fs from 'node:fs'
import { dirname, join } from 'node:path'
import { syncBuiltinESMExports } from 'node:module'

const [, , folder, whose] = process.argv
let between = () => {}
let inside = false
// Before anything is loaded that takes these functions.
for (const name of ['lstatSync', 'chmodSync', 'renameSync']) {
  const call = fs[name]
  fs[name] = (...args) => {
    if (!inside) {
      inside = true
      between()
      inside = false
    }
    return call(...args)
  }
}
syncBuiltinESMExports()

const { connectUnix } = await import('@baton/native-sendmsg')
const { RelayEndpoint } = await import('../../../backend-sdk/dist/relay/relay-endpoint.js')
const { sweepRelaySockets } = await import('../../dist/worker/relay/relay-sockets.js')

/** Whether connections to any socket there are refused, as by one that is bound and does not listen. */
function refuses() {
  return fs.readdirSync(folder).some((name) => {
    try {
      connectUnix(join(folder, name)).close()
      return false
    } catch (error) {
      return error.code === 'ECONNREFUSED'
    }
  })
}

let swept = 0
between = () => {
  if (refuses()) swept += 1
  sweepRelaySockets(folder)
}
const endpoint = await RelayEndpoint.open(join(folder, 'control.sock'), whose === 'shared', 60_000)
between = () => {}
const isBeside = dirname(endpoint.path) === folder
connectUnix(endpoint.path).close()
const mode = fs.lstatSync(endpoint.path).mode & 0o777
endpoint.close()
console.log(JSON.stringify({ isSwept: swept > 0, isBeside, mode }))
