import { createBackend } from '@baton/backend-sdk'
import {
  type sendUnaryData,
  Server,
  type ServerUnaryCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'

interface Message {
  readonly text: string
}

// A service without generated code: its messages are JSON. With a .proto file, @grpc/proto-loader gives the same object.
const json = {
  serialize: (message: Message) => Buffer.from(JSON.stringify(message)),
  deserialize: (bytes: Buffer) => JSON.parse(String(bytes)) as Message,
}
const greeter = {
  greet: {
    path: '/example.Greeter/Greet',
    requestStream: false,
    responseStream: false,
    requestSerialize: json.serialize,
    requestDeserialize: json.deserialize,
    responseSerialize: json.serialize,
    responseDeserialize: json.deserialize,
  },
}
const handlers: UntypedServiceImplementation = {
  greet(call: ServerUnaryCall<Message, Message>, answer: sendUnaryData<Message>) {
    answer(null, {
      text: `Hello ${call.request.text}, you are ${call.getPeer()}. From process ${process.pid}.`,
    })
  },
}

const server = new Server()
server.addService(greeter, handlers)

// BATON_SOCKET and BATON_SERVICE name the broker and the service. The server neither binds nor starts.
const backend = createBackend()
backend.attach(server)
await backend.ready()

// Calls in progress finish; clients open a connection to another process for the next ones.
process.once('SIGTERM', () => void backend.drain())
