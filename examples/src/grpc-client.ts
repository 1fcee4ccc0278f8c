import { credentials, makeGenericClientConstructor } from '@grpc/grpc-js'
import { promisify } from 'node:util'

interface Message {
  readonly text: string
}

const json = {
  serialize: (message: Message) => Buffer.from(JSON.stringify(message)),
  deserialize: (bytes: Buffer) => JSON.parse(String(bytes)) as Message,
}
const Greeter = makeGenericClientConstructor(
  {
    greet: {
      path: '/example.Greeter/Greet',
      requestStream: false,
      responseStream: false,
      requestSerialize: json.serialize,
      requestDeserialize: json.deserialize,
      responseSerialize: json.serialize,
      responseDeserialize: json.deserialize,
    },
  },
  'example.Greeter',
)

const client = new Greeter(process.argv[2] ?? '127.0.0.1:8083', credentials.createInsecure())
const greet = promisify(
  client['greet'] as (request: Message, answer: (error: Error | null, message: Message) => void) => void,
)
const { text } = await greet.call(client, { text: process.argv[3] ?? 'you' })
console.log(text)
client.close()
