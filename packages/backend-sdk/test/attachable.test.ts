import dgram from 'node:dgram'
import http from 'node:http'
import { createRequire } from 'node:module'
import http2 from 'node:http2'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import express from 'express'
import fastify from 'fastify'
import t from 'tap'
import { WebSocketServer } from 'ws'
import { attachServer, type AttachableServer } from '../src/attach/index.ts'

// It has no types.
const Koa = createRequire(import.meta.url)('koa') as new () => object

const hooks = { onServerClose: () => {} }

function refusal(value: unknown): Error & { code?: string } {
  try {
    attachServer(value as AttachableServer, hooks).detach()
  } catch (error) {
    return error as Error & { code?: string }
  }
  throw new Error('it was taken')
}

void t.test('every kind of Node server is accepted, listening or not', async (t) => {
  const servers = [
    http.createServer(),
    https.createServer(),
    http2.createServer(),
    http2.createSecureServer({ allowHTTP1: true }),
    tls.createServer(),
    net.createServer(),
    new (class Own extends net.Server {})(),
  ]
  for (const server of servers) {
    const attachment = attachServer(server, hooks)
    t.equal(attachment.server, server)
    attachment.detach()
  }
})

void t.test('values that are not servers are refused by name, with what to pass instead', async (t) => {
  const app = fastify()
  const httpServer = http.createServer()
  const socket = new net.Socket()
  const udp = dgram.createSocket('udp4')
  t.teardown(async () => {
    socket.destroy()
    udp.close()
    await app.close()
  })
  const given: [what: string, value: unknown, says: RegExp][] = [
    ['nothing', undefined, /got undefined: is it assigned later/],
    ['null', null, /got null/],
    ['an Express app', express(), /an Express app: attach http\.createServer\(app\)$/],
    ['a Fastify instance', app, /a Fastify instance: attach app\.server/],
    ['a Koa app', new Koa(), /a Koa app: attach http\.createServer\(app\.callback\(\)\)$/],
    [
      'a NestJS app',
      { getHttpServer: () => httpServer, init: () => {} },
      /a NestJS app: .*app\.getHttpServer\(\)$/,
    ],
    ['a hapi server', { listener: httpServer }, /a hapi server: attach server\.listener$/],
    ['socket.io', { httpServer, engine: {} }, /attach its httpServer$/],
    [
      'a WebSocket server',
      new WebSocketServer({ server: httpServer }),
      /a WebSocket server: attach the HTTP server/,
    ],
    ['one without a server', new WebSocketServer({ noServer: true }), /create it with \{ server \}/],
    ['Hono', { fetch: () => {} }, /a fetch handler: attach the http\.Server/],
    ['a promise', app.ready(), /a promise: await it/],
    [
      'a handler',
      (_: unknown, response: http.ServerResponse) => response.end(),
      /attach http\.createServer\(handler\)$/,
    ],
    ['a port', 3000, /a number: the broker listens/],
    ['an address', 'localhost:3000', /got a string$/],
    ['a connection', socket, /a connection: attach the server/],
    ['UDP', udp, /a UDP socket, which has no connections$/],
    ['an agent', new http.Agent(), /an instance of Agent$/],
    ['options', { port: 3000 }, /got an object$/],
    [
      'what throws',
      new Proxy(
        {},
        {
          get: () => {
            throw new Error('not yet')
          },
        },
      ),
      /got an object$/,
    ],
  ]
  for (const [what, value, says] of given) {
    const error = refusal(value)
    t.match(error, { name: 'AttachError', code: 'BATON_ERR_NOT_A_SERVER', message: says }, what)
    t.match(error.message, /^attach\(\) needs an http, https, http2, tls, net or gRPC server/)
  }
  t.doesNotThrow(() => attachServer(httpServer, hooks).detach(), 'and a refusal leaves nothing behind')
})
