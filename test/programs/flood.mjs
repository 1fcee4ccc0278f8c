// A user who may not register connects to a socket and closes, as fast as it can: `flood.mjs SOCKET UID`.
// It becomes that user only once everything is loaded, which that user may not be allowed to read.
import { connectUnix, NativeError } from '@baton/native-sendmsg'

const BATCH = 1000
const [path, uid] = process.argv.slice(2)
try {
  connectUnix(path).close()
} catch (error) {
  if (!(error instanceof NativeError)) throw error
}
process.setgroups([])
process.setgid(Number(uid))
process.setuid(Number(uid))

let told = false
function round() {
  for (let count = 0; count < BATCH; count++) {
    try {
      connectUnix(path).close()
    } catch (error) {
      // The queue is full.
      if (!(error instanceof NativeError) || error.code !== 'EAGAIN') throw error
    }
  }
  if (!told) console.log(JSON.stringify({ msg: 'flooding' }))
  told = true
  setImmediate(round)
}
round()
