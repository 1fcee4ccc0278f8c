// A GraphQL server over graphql-ws whose subscriptions go on in the next process. Its subscription counts from a number.
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { createBackend } from '@baton/backend-sdk'
import { migrateWebSockets } from '@baton/backend-sdk/ws'
import { GraphQLInt, GraphQLNonNull, GraphQLObjectType, GraphQLSchema } from 'graphql'
import { handleProtocols, makeServer } from 'graphql-ws'
import { WebSocketServer } from 'ws'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const int = new GraphQLNonNull(GraphQLInt)
const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: {
      pid: {
        type: int,
        resolve: async () => {
          await sleep(5)
          return process.pid
        },
      },
    },
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: {
      count: {
        type: int,
        args: { from: { type: int } },
        resolve: (number) => number,
        async *subscribe(_root, { from }) {
          for (let number = from; ; number++) {
            await sleep(3)
            yield number
          }
        },
      },
    },
  }),
})

const server = http.createServer()
const wss = new WebSocketServer({ server, handleProtocols })
const backend = createBackend()
backend.attach(server)
const graphql = makeServer({ schema, onConnect: ({ connectionParams }) => connectionParams?.user === 'me' })

/** The facts that a client has told, for the process that takes it up. */
class Session {
  params
  /** By id; `last` is the last number of a subscription. */
  operations = new Map()
  #receive
  #isQuiet = false

  constructor(ws) {
    const closed = graphql.opened(
      {
        protocol: ws.protocol,
        send: (text) => this.#send(ws, text),
        close: (code, reason) => ws.close(code, reason),
        onMessage: (receive) => (this.#receive = receive),
      },
      {},
    )
    ws.on('message', (data) => void this.receive(String(data)))
    ws.on('close', (code, reason) => void closed(code, String(reason)))
  }

  receive(text) {
    const { type, id, payload } = JSON.parse(text)
    if (type === 'connection_init') this.params = payload
    else if (type === 'subscribe') this.operations.set(id, { payload, last: undefined })
    else if (type === 'complete') this.operations.delete(id)
    return this.#receive(text)
  }

  #send(ws, text) {
    const { type, id, payload } = JSON.parse(text)
    if (this.#isQuiet && type === 'connection_ack') return
    if (type === 'next' && payload.data?.count !== undefined)
      this.operations.get(id).last = payload.data.count
    if (type === 'complete' || type === 'error') this.operations.delete(id)
    ws.send(text)
  }

  /** Undefined while a query is at work: its answer would be lost. */
  get state() {
    const operations = [...this.operations].map(([id, { payload, last }]) => ({ id, payload, last }))
    const isSubscription = ({ payload }) => payload.query.trimStart().startsWith('subscription')
    return operations.every(isSubscription) ? { params: this.params, operations } : undefined
  }

  async resume({ params, operations }) {
    // The client got the answer to this from another process.
    this.#isQuiet = true
    await this.receive(JSON.stringify({ type: 'connection_init', payload: params }))
    this.#isQuiet = false
    for (const { id, payload, last } of operations) {
      const from = last === undefined ? payload.variables.from : last + 1
      const message = { type: 'subscribe', id, payload: { ...payload, variables: { from } } }
      void this.receive(JSON.stringify(message))
    }
  }
}

const sessions = new WeakMap()
wss.on('connection', (ws, request) => {
  sessions.set(ws, new Session(ws))
  ws.on('close', () => say('closed', { movedOn: backend.connection(request.socket).movedOn }))
})
migrateWebSockets(wss, backend, {
  schema: 'graphql/1',
  state: (ws) => sessions.get(ws).state,
  resume: (ws, state) => sessions.get(ws).resume(state),
})
process.once('SIGTERM', () => void backend.drain({ deadline: '1h' }))
await backend.ready()
say('ready')
