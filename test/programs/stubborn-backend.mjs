// A scripted backend that ignores as much as an old program might: it registers with the id in its environment, redials when
// control ends, and neither drains nor exits on SIGTERM.
import { connectUnix, receiveExact, send, sharedPoller } from '@baton/native-sendmsg'
import { encodeFrame, FrameDecoder, PRE_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'

process.on('SIGTERM', () => {})
// Nothing reads it once the master has dropped the process that started this one.
process.stdout.on('error', () => {})
const { BATON_SOCKET: socket, BATON_SERVICE: service, BATON_BACKEND_ID: id = null } = process.env
const hello = { protocol: 1, capabilities: [], service, version: null, weight: 1, pid: process.pid }

async function read(fd, size) {
  return (await receiveExact(sharedPoller(), fd, size, { maxFds: 1 })).bytes
}

async function register() {
  const control = connectUnix(socket)
  send(
    control.fd,
    encodeFrame({ type: 'hello', ...hello, backend: id, sdk: 'by hand', secret: null, reconnect: null }),
  )
  const decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
  try {
    for (;;) {
      const prefix = await read(control.fd, 4)
      decoder.push(prefix)
      const [answer] = decoder.push(await read(control.fd, prefix.readUInt32LE(0)))
      if (answer) console.log(JSON.stringify({ ...answer, msg: answer.type, pid: process.pid }))
    }
  } finally {
    control.close()
  }
}

for (;;) {
  await register().catch(() => {})
  await new Promise((resolve) => setTimeout(resolve, 20))
}
