// A backend by hand that does what it is told as little as an old program can: it registers with the id in its environment, and then neither
// drains nor ends at SIGTERM.
import { connectUnix, receiveExact, send, sharedPoller } from '@baton/native-sendmsg'
import { encodeFrame, FrameDecoder, PRE_WELCOME_LIMIT } from '@baton/backend-sdk/protocol'

process.on('SIGTERM', () => {})
const { BATON_SOCKET: socket, BATON_SERVICE: service, BATON_BACKEND_ID: id = null } = process.env
const control = connectUnix(socket)
const hello = { protocol: 1, capabilities: [], service, version: null, weight: 1, pid: process.pid }
send(
  control.fd,
  encodeFrame({ type: 'hello', ...hello, backend: id, sdk: 'by hand', secret: null, reconnect: null }),
)
const prefix = await receiveExact(sharedPoller(), control.fd, 4, { maxFds: 1 })
const body = await receiveExact(sharedPoller(), control.fd, prefix.bytes.readUInt32LE(0), { maxFds: 1 })
const decoder = new FrameDecoder({ limit: PRE_WELCOME_LIMIT })
const [answer] = [...decoder.push(prefix.bytes), ...decoder.push(body.bytes)]
console.log(JSON.stringify({ ...answer, msg: answer.type, pid: process.pid }))
setInterval(() => {}, 60_000)
