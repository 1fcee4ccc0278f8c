// A gRPC server: its clients do not notice a deploy. The service has no generated code, and its messages are JSON; with a .proto file,
// @grpc/proto-loader gives such a definition.
import { createBackend } from '@baton/backend-sdk'
import {
  type sendUnaryData,
  Server,
  type ServerUnaryCall,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'

interface Message {
  readonly text: string
}

const serialize = (message: Message) => Buffer.from(JSON.stringify(message))
const deserialize = (bytes: Buffer) => JSON.parse(String(bytes)) as Message

export const greeter = {
  greet: {
    path: '/example.Greeter/Greet',
    requestStream: false,
    responseStream: false,
    requestSerialize: serialize,
    requestDeserialize: deserialize,
    responseSerialize: serialize,
    responseDeserialize: deserialize,
  },
} satisfies ServiceDefinition

const handlers = {
  greet(call: ServerUnaryCall<Message, Message>, answer: sendUnaryData<Message>) {
    answer(null, { text: `Hello ${call.request.text} at ${call.getPeer()}, from process ${process.pid}.` })
  },
} satisfies UntypedServiceImplementation

const server = new Server()
server.addService(greeter, handlers)

// BATON_SOCKET and BATON_SERVICE name the broker and the service. The server neither binds nor starts.
const backend = createBackend()
backend.attach(server)
await backend.ready()

// Calls in progress finish; clients open a connection to another process for the next ones.
process.once('SIGTERM', () => void backend.drain())
