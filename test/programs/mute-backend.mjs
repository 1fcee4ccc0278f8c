// A backend that takes connections to resume from the lane, and never answers. It says when it is registered, and when it has one.
import {
  encodeFrame,
  FrameDecoder,
  HANDBACK_CAPABILITY,
  POST_WELCOME_LIMIT,
} from '@baton/backend-sdk/protocol'
import {
  connectUnix,
  EPOLLIN,
  ReceiveBatch,
  readToEnd,
  receiveExact,
  send,
  sharedPoller,
} from '@baton/native-sendmsg'

const control = connectUnix(process.argv[2])
send(
  control.fd,
  encodeFrame({
    type: 'hello',
    protocol: 1,
    capabilities: [HANDBACK_CAPABILITY],
    service: 'web',
    version: null,
    weight: 1,
    pid: process.pid,
    backend: null,
    sdk: 'mute',
    secret: null,
    reconnect: null,
  }),
)
const head = await receiveExact(sharedPoller(), control.fd, 4, { maxFds: 1 })
const body = await receiveExact(sharedPoller(), control.fd, head.bytes.readUInt32LE(0), { maxFds: 1 })
const [lane] = [...head.fds, ...body.fds]
send(
  control.fd,
  Buffer.concat([
    encodeFrame({ type: 'stats', adopted: 0, closed: 0, lag: 0 }),
    encodeFrame({ type: 'resumes', schemas: ['chat/1'] }),
    encodeFrame({ type: 'heartbeat', id: 1, reply: false }),
  ]),
)
const decoder = new FrameDecoder({ limit: POST_WELCOME_LIMIT })
const batch = new ReceiveBatch(8, 16)
sharedPoller().add(control.fd, EPOLLIN, () => {
  for (const frame of decoder.push(readToEnd(control.fd).data)) {
    if (frame.type === 'heartbeat') {
      if (frame.reply) console.log('{"msg":"registered"}')
      else send(control.fd, encodeFrame({ ...frame, reply: true }))
    }
    if (frame.type !== 'offer') continue
    const { messages } = batch.receive(lane.fd, 8)
    if (messages.length === 1 && messages[0].fds.length === 1) console.log('{"msg":"has it"}')
  }
})
setInterval(() => {}, 1000)
