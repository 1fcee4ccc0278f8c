// A managed process that sends descriptors along with its output, through a Unix socket to the master.
import { NativeError, sendMessage } from '@baton/native-sendmsg'

const said = [1, 2].map((fd) => {
  try {
    sendMessage(fd, { bytes: Buffer.from('\n'), fds: [0] })
    return 'sent'
  } catch (error) {
    if (error instanceof NativeError) return error.code
    throw error
  }
})
console.log(`a descriptor along with output: ${said.join(', ')}`)
const parent = process.ppid
// Exits with the master, which a test kills.
setInterval(() => process.ppid === parent || process.exit(), 100)
