// Connects to a socket and closes again, as fast as it can, as a user who may not register: `flood.mjs SOCKET UID`.
// Changes to that user only once everything is loaded, because the user may not be able to read the repository.
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
      // The accept queue is full.
      if (!(error instanceof NativeError) || error.code !== 'EAGAIN') throw error
    }
  }
  if (!told) console.log(JSON.stringify({ msg: 'flooding' }))
  told = true
  setImmediate(round)
}
round()
